"""What the scales mean: a definition, five anchors and two examples for each dimension, shown to every rater.

Anchors describe the answer, not the rater's liking: agreement comes from definitions (Amidei, Piwek and Willis 2019
review how often they are missing).
"""

from typing import Any

SCALES: list[dict[str, Any]] = [
    {
        "key": "fluency",
        "name": "Fluency",
        "question": "Is the language right and easy to read?",
        "meaning": "Grammar, spelling and word order only. A fluent answer may still be wrong.",
        "anchors": [
            "Not readable: word salad or broken characters",
            "Hard to read: errors in most sentences",
            "Readable, with several errors",
            "Good, with one or two small slips",
            "As a careful person would write it",
        ],
        "examples": [
            {"text": "Parcel the the sends we Monday", "score": 1},
            {"text": "We send your parcel on Monday.", "score": 5},
        ],
    },
    {
        "key": "coherence",
        "name": "Coherence",
        "question": "Do its parts fit together?",
        "meaning": "One thought follows from the other, nothing contradicts itself or goes round in circles.",
        "anchors": [
            "No connection between its parts",
            "Mostly disconnected, or it contradicts itself",
            "Can be followed, with gaps or repetition",
            "Clear, with one small break",
            "Every part follows from the one before",
        ],
        "examples": [
            {"text": "Returns are free. Returns cost 5. Tea is a plant.", "score": 1},
            {"text": "Returns are free. Use the label in the parcel.", "score": 5},
        ],
    },
    {
        "key": "relevance",
        "name": "Relevance",
        "question": "Does it answer what was asked?",
        "meaning": "It speaks to the question and says what is needed, no matter how well it is written.",
        "anchors": [
            "Has nothing to do with the question",
            "Touches the subject, does not answer",
            "Answers in part",
            "Answers, with something missing or beside the point",
            "Answers the question fully and nothing else",
        ],
        "examples": [
            {"text": "(When do you open?) Our teas come from Assam.", "score": 1},
            {"text": "(When do you open?) At nine, Monday to Saturday.", "score": 5},
        ],
    },
]
