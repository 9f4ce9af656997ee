"""Websites, politely and safely: what may be fetched, how it is fetched, and what is kept between runs.

The source `website` stands on it. Not a browser: no scripts, no cookies, no logins.
"""
