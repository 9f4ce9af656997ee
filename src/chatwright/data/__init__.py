"""Documents: collected from sources, cleaned with a reason for every drop, written as Parquet with their origin."""
