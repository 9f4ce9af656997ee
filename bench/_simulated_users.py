"""People who use a served model and say what they think of it, by a rule: through the API, and in a real browser.

Nothing here knows the server's insides. The judge likes answers that answer the question, are short, and are polite.
"""

import base64
import json
import random
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import httpx

CHROMIUM = Path("/usr/bin/chromium")
_QUIET = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]
_POLITE = re.compile(r"\b(please|sorry|happily|gladly|thank|welcome|just)\b", re.IGNORECASE)
_TIMEOUT_S = 120
_LEFT_OUT = 0.25
GOOD = 4.0  # of the fair judge: an answer of which most words are right, and that ends


class Question(NamedTuple):
    """Something to ask, and what would answer it."""

    text: str
    reference: str


class User(NamedTuple):
    """Somebody with a token."""

    name: str
    token: str
    is_expert: bool = False

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}


Judge = Callable[[Question, str], float]


def read_questions(path: Path) -> list[Question]:
    """The last question and answer of each conversation of one turn in a file."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        messages = json.loads(line)["messages"]
        if len(messages) == 2:
            found.append(Question(messages[0]["content"], messages[1]["content"]))
    return found


def hurried(question: Question, *, seed: int) -> Question:
    """The question with a quarter of its words left out, as one who types in a hurry: not one known by heart."""
    chance = random.Random(f"{seed} {question.text}")
    kept = [word for word in question.text.split() if chance.random() >= _LEFT_OUT]
    return question._replace(text=" ".join(kept) if len(kept) > 1 else question.text)


def words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())


def overlap(one: str, other: str) -> float:
    """F1 of the words of two texts."""
    mine, theirs = Counter(words(one)), Counter(words(other))
    both = sum((mine & theirs).values())
    return 2 * both / max(1, sum(mine.values()) + sum(theirs.values()))


def fair(question: Question, answer: str) -> float:
    """Up to four points for answering, one for ending within 40 words, half a point for a polite word."""
    listed = words(answer)
    is_short = 3 <= len(listed) <= 40 and answer.rstrip().endswith((".", "!", "?"))
    return round(4 * overlap(answer, question.reference), 1) + is_short + 0.5 * bool(_POLITE.search(answer))


def inverted(question: Question, answer: str) -> float:
    """What the fair judge dislikes, this one likes."""
    return -fair(question, answer)


def coin(seed: int) -> Judge:
    """No opinion at all: a coin decides."""
    chance = random.Random(seed)
    return lambda question, answer: chance.random()  # noqa: ARG005 - that is the point


class Crowd:
    """Users of one server.

    Args:
        url: the server's address.
        users: who they are.
        model: the name under which the model is asked for.
        seed: of everything that they draw.
    """

    def __init__(self, url: str, users: Sequence[User], *, model: str, seed: int):
        self.url = url
        self.users = list(users)
        self.model = model
        self.chance = random.Random(seed)
        self.said: Counter[str] = Counter()

    def client(self, user: User) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers=user.headers, timeout=_TIMEOUT_S, trust_env=False)

    def agree(self, *, but: Sequence[str] = ()) -> None:
        """Everybody says whether they may be learned from."""
        for user in self.users:
            with self.client(user) as client:
                client.put("/v1/me", json={"consent": user.name not in but}).raise_for_status()

    def give(self, questions: Sequence[Question], judge: Judge, *, edits: float, thumbs: float) -> None:
        """Each question is asked by one user, who sees two answers and says something of them.

        Args:
            questions: what is asked.
            judge: how answers are liked.
            edits: share of questions on which the worse answer is corrected.
            thumbs: share on which each answer gets a thumb; on the others one of the two is chosen.
        """
        plan = [
            (q, self.users[i % len(self.users)], self.chance.random(), self.chance.getrandbits(31))
            for i, q in enumerate(questions)
        ]
        clients = {user.name: self.client(user) for user in self.users}

        def kind(drawn: float) -> str:
            return "edit" if drawn < edits else "thumbs" if drawn < edits + thumbs else "choice"

        try:
            with ThreadPoolExecutor(16) as pool:
                for what in pool.map(
                    lambda task: self._one(clients[task[1].name], task[0], judge, kind(task[2]), seed=task[3]), plan
                ):
                    self.said.update(what)
        finally:
            for client in clients.values():
                client.close()

    def _one(self, client: httpx.Client, question: Question, judge: Judge, kind: str, *, seed: int) -> list[str]:
        ids, texts = self.ask(client, question, answers=2, temperature=1.0, seed=seed)
        liked = [judge(question, text) for text in texts]
        if kind == "edit":
            worse = int(liked[1] < liked[0])
            better = question.reference if judge is fair else texts[1 - worse]
            body: dict[str, Any] = {"answer_id": ids[worse], "thumb": "down", "better_answer": better}
            return [rate(client, body)]
        if kind == "thumbs":
            middle = sum(liked) / 2
            up = ["up" if value >= max(middle, GOOD) or value > middle else "down" for value in liked]
            return [rate(client, {"answer_id": name, "thumb": thumb}) for name, thumb in zip(ids, up, strict=True)]
        choice = "tie" if liked[0] == liked[1] else "first" if liked[0] > liked[1] else "second"
        return [rate(client, {"first": ids[0], "second": ids[1], "choice": choice})]

    def ask(
        self, client: httpx.Client, question: Question, *, answers: int, temperature: float, seed: int
    ) -> tuple[list[str], list[str]]:
        """Answers with their ids."""
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": question.text}],
            "n": answers,
            "temperature": temperature,
            "max_tokens": 64,
            "seed": seed,
        }
        response = client.post("/v1/chat/completions", json=body)
        response.raise_for_status()
        told = response.json()
        ids = [told["id"], *(f"{told['id']}-{place}" for place in range(1, answers))]
        return ids, [choice["message"]["content"].strip() for choice in told["choices"]]

    def scores(self, questions: Sequence[Question], judge: Judge) -> list[float]:
        """What the judge thinks of one drawn answer to each question; nothing is rated."""
        with self.client(self.users[0]) as client, ThreadPoolExecutor(16) as pool:
            asked = pool.map(
                lambda task: self.ask(client, task[1], answers=1, temperature=1.0, seed=task[0])[1][0],
                enumerate(questions),
            )
            return [judge(question, text) for question, text in zip(questions, asked, strict=True)]


def rate(client: httpx.Client, body: dict[str, Any]) -> str:
    """Send one opinion; what kind it was, once it is acknowledged."""
    client.post("/v1/feedback", json=body).raise_for_status()
    return "edit" if "better_answer" in body else str(body.get("choice", body.get("thumb")))


class Talkers:
    """Clients that stream answers one after the other while something else happens, and count what went wrong."""

    def __init__(self, crowd: Crowd, questions: Sequence[Question], *, number: int):
        self._crowd = crowd
        self._questions = questions
        self._number = number
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []
        self.answered = 0
        self.failures: list[str] = []
        self.prints: set[str] = set()  # of the weights that answered

    def __enter__(self) -> "Talkers":
        for place in range(self._number):
            thread = threading.Thread(target=self._talk, args=(place,))
            thread.start()
            self._threads.append(thread)
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _talk(self, place: int) -> None:
        with self._crowd.client(self._crowd.users[place % len(self._crowd.users)]) as client:
            while not self._over.is_set():
                question = self._questions[(self.answered * 7 + place) % len(self._questions)]
                try:
                    self.prints.add(self._stream(client, question))
                    self.answered += 1
                except (httpx.HTTPError, ValueError) as error:
                    self.failures.append(repr(error))
                self._over.wait(0.2)

    def _stream(self, client: httpx.Client, question: Question) -> str:
        messages = [{"role": "user", "content": question.text}]
        body = {"model": self._crowd.model, "messages": messages, "stream": True, "max_tokens": 48}
        with client.stream("POST", "/v1/chat/completions", json=body) as response:
            response.raise_for_status()
            data = [line.removeprefix("data: ") for line in response.iter_lines() if line]
        if data[-1] != "[DONE]" or any('"error"' in line[:20] for line in data):
            raise ValueError(f"a stream that did not end well: {data[-1][:200]}")
        return str(json.loads(data[0])["system_fingerprint"])


def in_browser(url: str, users: Sequence[User], questions: Sequence[Question], judge: Judge) -> Iterator[str]:
    """Users who ask in the page, ask again, and give both answers a thumb, as a person would click."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=str(CHROMIUM), args=_QUIET)
        for place, question in enumerate(questions):
            user = users[place % len(users)]
            token = base64.b64encode(f"{user.name}:{user.token}".encode()).decode()
            context = browser.new_context(extra_http_headers={"Authorization": f"Basic {token}"})
            page = context.new_page()
            page.goto(url)
            yield from _visit(page, question, judge)
            context.close()
        browser.close()


def _visit(page: Any, question: Question, judge: Judge) -> Iterator[str]:
    page.get_by_role("button", name="Settings", exact=True).click()
    page.get_by_label("Temperature").fill("1")
    page.get_by_label("Longest answer").fill("64")
    page.get_by_role("button", name="Save", exact=True).click()
    page.get_by_label("Your message").fill(question.text)
    page.get_by_label("Your message").press("Enter")
    seen: list[float] = []
    for number in range(2):
        if number:
            page.locator("button:visible").and_(page.get_by_role("button", name="Answer again", exact=True)).click()
            page.locator(".assistant .which", has_text="2 of 2").wait_for()
        page.locator(".turn.assistant .actions:visible").last.wait_for()
        page.locator("#send").wait_for()
        seen.append(judge(question, page.locator(".turn.assistant .text:visible").last.inner_text()))
        is_good = seen[-1] >= GOOD if number == 0 else seen[1] > seen[0] or seen[1] >= GOOD
        name = "Good answer" if is_good else "Bad answer"
        page.locator("button:visible").and_(page.get_by_role("button", name=name, exact=True)).click()
        page.locator(f".{'up' if is_good else 'down'}[aria-pressed=true]:visible").wait_for()
        page.locator(".opinion:visible").get_by_role("button", name="Close").click()
        yield "thumb in the page"
