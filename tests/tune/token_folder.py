"""Token shards of two domains, a train and a held-out side, as the stage `tokens` leaves them: for tests of tuning."""

from chatwright.tokens.shards import ShardWriter, write_index

TEXTS = ("The ferry leaves at nine in the morning. ", "Opening hours are on the door. ", "Write to us for a ticket. ")


def write_tokens(directory, tokenizer):
    directory.mkdir()
    shards = {}
    for split, repeats in (("train", 12), ("heldout", 3)):
        writer = ShardWriter(vocabulary_size=tokenizer.size, end_of_text=tokenizer.end_of_text)
        for number, text in enumerate(TEXTS):
            writer.add(tokenizer.encode(text * repeats), domain=number % 2, num_bytes=len(text) * repeats)
        shards[split] = [writer.save(directory / f"{split}-00000")]
    write_index(directory, shards, tokenizer=tokenizer.digest, vocabulary=tokenizer.size, domains=["shop", "sea"])
    return directory
