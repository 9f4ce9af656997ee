"""Personal data as it stands in texts, written for these tests: what `redact` should find, and what it should leave.

The spread is that of letters, mailing lists, logs, forms and code, hard forms among them (national telephone numbers,
addresses written to hide, keys of services that the patterns do not know). No value is anybody's: names are made up,
numbers are from the ranges kept for examples or drawn, and keys are drawn from a seed. Where a value is only a part of
what is written, it stands in ‹ and ›.
"""

import random
import string

CONTEXTS = (
    "{}",
    "Please write to {} before Friday.",
    "Contact: {}",
    "contact={};",
    '"value": "{}",',
    "({})",
    "<td>{}</td>",
    "2026-03-04 12:00:01 INFO seen {} twice",
    "I had noted it somewhere: {}. It was wrong.",
    "Ana,{},yes",
    "- {}\n- none",
    "Is it {}?",
)

EMAIL = (
    """
anna.keller@example.com j.smith@example.org mariam@example.net info@harbour-museum.example.com
lars.holm@mail.example.se kundenservice@firma-beispiel.de o_ferreira@example.com.br t.nguyen+lists@example.com
support@sub.domain.example.co.uk WEBMASTER@EXAMPLE.COM Peter.Mueller@example.de x@example.io 1988anna@example.com
anna-lena.berg@example.se firstname.lastname@students.uni-example.edu sales@example.shop hr@example.museum
r2d2@example.tech jean-pierre@example.fr m.rossi@posta.example.it no-reply@notifications.example.com
bounce+4711=user@lists.example.org dev%2Bci@example.dev k.a.tanaka@example.co.jp c3po@example.ai
abuse@example.net press@example.eu someone_else@example.info a.b.c.d.e@example.com ivan.petrov@example.ru
lena@xn--bcher-kva.example.com team@my-company.example billing@pay.example.com yusuf.demir@example.com.tr
john.doe.1975@example.com the.harbour.master@example.org office@example.at redaktion@example.ch
kontakt@example.pl e.v.jensen@example.dk ops-team@eu-west-1.example.com root@server01.example.com
maria_jose@example.es marketing@example.agency n.o.body@example.biz v.kumar@example.in
q.zhang@mail.example.cn alice@example.photography bob99@example.xyz carol@example.travel dave@example.name
erin@example.online frank@example.me grace@example.us heidi@example.ca judy@example.au mallory@example.nz
niaj@example.ie olivia@example.pt peggy@example.be rupert@example.nl sybil@example.no trent@example.fi
walter@example.gr o'brien@example.ie müller@example.de info@bücher-beispiel.de user&co@example.com
anna(at)example.com anna@localhost.localdomain
""".split()
    + ["anna [at] example [dot] com", "john at example dot org", '"john doe"@example.com', "a.k @ example.com"]
)

PHONE = [
    *("+1 415 555 2671", "+1 (415) 555-2671", "+1-415-555-2671", "+14155552671", "(415) 555-2671", "415-555-2671"),
    *("415.555.2671", "1-415-555-2671", "1 (212) 555-0123", "(212)555-0123", "+1.212.555.0123", "212-555-0187"),
    *("+44 20 7946 0958", "+44 (0)20 7946 0958", "+442079460958", "+44 7700 900123", "+44-7700-900123"),
    *("+49 30 901820", "+49 (30) 901820", "+49-30-901820", "+49 171 1234567", "+49 (0) 171 1234567", "+4930901820"),
    *("+33 1 23 45 67 89", "+33123456789", "+33 6 12 34 56 78", "+34 912 345 678", "+39 06 1234 5678"),
    *("+31 20 123 4567", "+46 8 123 456 78", "+47 22 12 34 56", "+45 32 12 34 56", "+358 9 123 4567"),
    *("+43 1 234567", "+41 44 123 45 67", "+48 22 123 45 67", "+420 212 345 678", "+36 1 234 5678"),
    *("+7 495 123-45-67", "+7 (495) 123-45-67", "+380 44 123 4567", "+90 212 123 45 67", "+91 98765 43210"),
    *("+86 10 1234 5678", "+81 3-1234-5678", "+82 2-123-4567", "+61 2 1234 5678", "+64 9 123 4567"),
    *("+55 11 91234-5678", "+52 55 1234 5678", "+54 11 1234-5678", "+27 11 123 4567", "+20 2 12345678"),
    *("+234 803 123 4567", "+254 712 345678", "+971 4 123 4567", "+972 3-123-4567", "+65 6123 4567"),
    *("00 49 30 901820", "0049 30 901820", "030 901820", "0171 1234567", "030/901820", "(030) 90 18 20"),
    *("020 7946 0958", "07700 900123", "01 23 45 67 89", "06.12.34.56.78", "912 345 678", "08-123 456 78"),
    *("8 (495) 123-45-67", "03-1234-5678", "(02) 1234 5678", "415 555 2671", "4155552671", "tel:‹+1-201-555-0123›"),
]

IP = """
8.8.8.8 1.1.1.1 93.184.216.34 151.101.1.69 142.250.74.46 13.107.42.14 104.16.132.229 185.199.108.153 52.95.110.1
34.117.59.81 20.112.52.29 199.232.69.194 23.215.0.136 91.198.174.192 208.80.154.224 140.82.121.4 62.210.16.61
212.58.244.20 217.160.0.187 80.67.169.12 77.88.55.88 5.255.255.70 114.114.114.114 223.5.5.5 180.76.76.76
202.12.27.33 203.178.137.58 41.231.53.2 196.216.2.6 200.160.2.3 190.93.240.1 45.33.32.156 66.249.66.1 72.14.192.1
128.30.52.100 130.89.148.77 137.138.0.1 193.0.6.139 194.109.6.66 195.20.224.234 198.41.0.4 199.7.83.42 216.58.0.46
2001:4860:4860::8888 2001:4860:4860:0:0:0:0:8844 2606:4700:4700::1111 2a00:1450:4001:80b::200e 2620:fe::fe
2a03:2880:f12f:83:face:b00c:0:25de 2001:67c:2e8:22::c100:68b 2a02:26f0:6c00::210:ba1b 2400:cb00:2048:1::6814:55
2001:500:88:200::8 2610:20:6f96:96::4 2A02:898:52:FFFE::B 2001:7fd::1 2001:dc3::35 2c0f:fb50:4002:805::200e
‹8.8.4.4›:53 ‹9.9.9.9›/32 http://‹93.184.215.14›/index.html [‹2620:fe::9›]:53 ::ffff:8.8.8.8 008.008.008.008 8[.]8[.]8[.]8
‹64.6.64.6›.in-addr.arpa ip-52-95-110-1
""".split()

_DRAW = random.Random(20260304)


def _digits(prefix: str, length: int) -> str:
    """A number of an issuer's range with its check digit."""
    body = prefix + "".join(_DRAW.choices(string.digits, k=length - len(prefix) - 1))
    total = sum(sum(divmod(int(d) * (1 + (n % 2 == 0)), 10)) for n, d in enumerate(reversed(body)))
    return body + str(-total % 10)


def _in_groups(number: str, sizes: tuple[int, ...], between: str) -> str:
    pieces, at = [], 0
    for size in sizes:
        pieces.append(number[at : at + size])
        at += size
    return between.join(pieces)


_FOURS = (4, 4, 4, 4)
CARD = [
    *(
        _digits(prefix, 16)
        for prefix in ("4", "4", "4", "4", "51", "52", "54", "55", "2221", "2720", "6011", "65", "3528")
    ),
    *(
        _in_groups(_digits(prefix, 16), _FOURS, " ")
        for prefix in ("4", "4", "4", "4", "51", "53", "55", "2223", "6011")
    ),
    *(
        _in_groups(_digits(prefix, 16), _FOURS, " ")
        for prefix in ("62", "3530", "5019", "4571", "6759", "4026", "4917")
    ),
    *(_in_groups(_digits(prefix, 16), _FOURS, "-") for prefix in ("4", "4", "51", "54", "6011", "2300", "3589", "62")),
    *(_digits(prefix, 15) for prefix in ("34", "37", "37")),
    *(
        _in_groups(_digits(prefix, 15), (4, 6, 5), between)
        for prefix, between in (("34", " "), ("37", " "), ("37", "-"))
    ),
    *(_digits(prefix, 14) for prefix in ("300", "36", "38")),
    *(_in_groups(_digits(prefix, 14), (4, 6, 4), " ") for prefix in ("36", "38")),
    *(_digits(prefix, 13) for prefix in ("4", "4")),
    *(_digits(prefix, 19) for prefix in ("4", "62", "6304")),
    _in_groups(_digits("6304", 19), (4, 4, 4, 4, 3), " "),
    *(_in_groups(_digits("4", 16), _FOURS, " ") for _ in range(6)),
    *(_in_groups(_digits("4", 16), _FOURS, between) for between in (".", "\u00a0", "  ", "\n", "_")),
]


def _drawn(length: int, letters: str = string.ascii_letters + string.digits) -> str:
    return "".join(_DRAW.choices(letters, k=length))


_CAPITALS = string.ascii_uppercase + string.digits
_HEX = "0123456789abcdef"


def _block(kind: str, lines: int) -> str:
    body = "\n".join(_drawn(64) for _ in range(lines))
    return f"-----BEGIN {kind}PRIVATE KEY-----\n{body}==\n-----END {kind}PRIVATE KEY-----"


KEY = [
    *(f"{head}{_drawn(16, _CAPITALS)}" for head in ("AKIA",) * 7 + ("ASIA",) * 3),
    *(f"gh{kind}_{_drawn(36)}" for kind in "ppppppoousr"),
    *(f"xox{kind}-{_drawn(12, string.digits)}-{_drawn(12, string.digits)}-{_drawn(24)}" for kind in "bbbaprs"),
    *(f"sk-{_drawn(48)}" for _ in range(6)),
    *(f"sk-proj-{_drawn(64)}" for _ in range(4)),
    *(f"sk-ant-api03-{_drawn(80)}" for _ in range(4)),
    *(f"AIza{_drawn(35)}" for _ in range(6)),
    *(f"hf_{_drawn(34)}" for _ in range(6)),
    *(_block(kind, lines) for kind, lines in (("", 4), ("RSA ", 13), ("EC ", 3), ("OPENSSH ", 6), ("DSA ", 9))),
    _block("RSA ", 5).replace("\n", r"\n"),
    *(
        f"{head}{_drawn(length)}"
        for head, length in (("github_pat_", 82), ("glpat-", 20), ("npm_", 36), ("sk_live_", 24))
    ),
    *(f"eyJ{_drawn(33)}.eyJ{_drawn(60)}.{_drawn(43)}", f"SG.{_drawn(22)}.{_drawn(43)}"),
    *(_drawn(32, _HEX), _drawn(40, string.ascii_letters + string.digits + "/+")),
]

# What looks like it and is not: dates, versions, prices, code, addresses of private networks, numbers of articles.
NEGATIVE = """
The meeting is on 2026-03-04 at 12:34:56 in room 415.
Version 1.2.3.4.5 replaces 10.15.7 and 3.11.0rc1.
It costs 1 234 567.89 euros, or 12,345,678 in all.
ISBN 978-3-16-148410-0 and ISSN 2049-3630 are on the back.
An @decorator, a matrix product a @ b, and @anna on a forum.
user@localhost, root@db and git@host:path.
Handles such as @harbour_museum are no addresses.
x[::2], std::vector<int>, a::b::c, Dad::Bee and 12:34::56.
192.168.1.1, 10.0.0.7, 172.16.5.4, 127.0.0.1, 169.254.1.1, 0.0.0.0 and 255.255.255.255.
::1, fe80::1, fd00::5, ff02::1 and 2001:db8::1 are nobody's.
Order 4111 1111 1111 1112 and id 1234567890123456.
0000 0000 0000 0000 is a placeholder.
Coordinates 48.858370, 2.294481 and 40.689247, -74.044502.
Pages 100-200-3000 and 123-45-6789 of the ledger.
The sum 1 + 1 = 2, +1 point, -40 degrees, +5 % and 3e+10.
sk-learn, hf_hub, AKIA, ghp_ and AIza are words of this text.
sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855
commit 9fceb02d0ae598e95dc970b74767f19372d61af8 by nobody
550e8400-e29b-41d4-a716-446655440000 is an identifier.
-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE\n-----END PUBLIC KEY-----
DOI 10.1000/182 and 10.1038/s41586-020-2649-2.
RFC 5321, section 4.5.3.1.1, limits it to 64 octets.
1914-1918, 1939-1945, 0800-1200 and 20:00-22:30.
Call 112 or 911 in need; the extension is 4711.
In 1066 there were 1,500,000 people and 12 ships.
3.14159265358979 and 2.718281828459045 and 1.41421356237.
IBAN DE89 3704 0044 0532 0130 00 of a bank.
Flight LH 400, train ICE 1523, gate B42, seat 23A.
0x7fffffff, 0b1010, 0o755 and 1_000_000_000_000.
Timestamps 1709550000, 1709550000000 and 20260304123456.
Serial 1234-5678-9012 and part 555-1234.
A ratio of 16:9, a score of 3:2 and a scale of 1:25000.
foo@2x.png and logo@3x.jpg are pictures.
npm i left-pad@1.3.0 react@18.2.0
The window 800x600, 1920x1080 and a 4-4-2.
Python 3.11.7, Node 20.10.0, glibc 2.36, kernel 6.1.0-18.
a.b.c.d, e.g., i.e., etc. and so on...
Tel Aviv, phone booths and cards of the house.
SSN-like 078-05-1120 and plate B-AB 1234.
0.0.0.0/0, 10.0.0.0/8, 192.0.2.1, 198.51.100.7 and 203.0.113.9.
Lot 6304 0000 0000 0001, batch 4000-1234-5678-9011.
12 34 56 78 90 12 34 56 78 were the numbers drawn.
""".strip().split("\n")

POSITIVE = {"email": EMAIL, "phone": PHONE, "ip": IP, "card": CARD, "key": KEY}
