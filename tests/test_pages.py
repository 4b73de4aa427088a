"""The pages of the service in a real browser, and what a browser does not show: cookies, forms, scopes, sessions."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from html import unescape
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from selenium.webdriver.chrome.webdriver import WebDriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys as Press
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.select import Select
from selenium.webdriver.support.ui import WebDriverWait

from ragops.keys import SCOPES, Keys
from ragops.service.marks import Marker
from ragops.service.sessions import FILE, SECONDS, Sessions
from ragops.workspace import Workspace
from tests.browser import asked, browser, screen
from tests.conftest import use_model, write_corpus
from tests.served import Served, served

EVIL = "<script>window.pwned=1</script><img src=x onerror=window.pwned=1><svg onload=window.pwned=1>"
TIDES = "".join(
    f"## Day {day}\n\nThe whales of day {day} sing songs where the tide turns.\n\nThey eat krill, {day} tons.\n\n"
    for day in range(150)
)
FILES = {
    "docs/tides.md": f"---\ntitle: Whales and tides\nauthor: 'Ada {EVIL}'\n---\n# Whales\n\n{TIDES}",
    "docs/evil.md": f'# Attack {EVIL}\n\nThe attack: `{EVIL}` </p></mark></div> &amp; "quotes" {{{{ 7*7 }}}}.\n',
    "docs/long.txt": "An unbroken word: " + "whale" * 120 + ".\n",
    "docs/old.md": "# Old\n\nThis page of lobsters will be removed.\n",
    "docs/<img src=x onerror=window.pwned=1>.md": "# Named\n\nA document with a hostile name, on barnacles.\n",
    "acme/plan.md": "# Plan\n\nThe plan of acme is to count plankton.\n",
    "globex/secret.md": "# Secret\n\nThe secret of globex is to sell plankton.\n",
    "globex/moving.md": "# Moving\n\nA document that goes from one tenant to the other, word for word.\n",
}
ASKED = "where do the whales sing?"


def make(root: Path) -> dict[str, str]:
    """Two releases of three sources, an evaluation, and keys by name."""
    Workspace.create(root)
    use_model(root)
    write_corpus(root, FILES)
    params = root / "params.yaml"
    sources = "".join(
        f"  - {{name: {name}, path: {name}, tenant: {tenant!r}}}\n"
        for name, tenant in (("docs", ""), ("acme", "acme"), ("globex", "globex"))
    )
    params.write_text(params.read_text("utf-8").replace("sources: []\n", f"sources:\n{sources}"), "utf-8")
    workspace = Workspace.open(root)
    workspace.ingest()
    (root / "docs/old.md").unlink()
    (root / "globex/moving.md").rename(root / "acme/moved.md")
    (root / "acme/plan.md").rename(root / "acme/plans.md")
    write_corpus(root, {"docs/new.md": "# New\n\nA new page of urchins.\n", "globex/fresh.md": "# Fresh\n\nGlobex.\n"})
    tides = root / "docs/tides.md"
    tides.write_text(tides.read_text("utf-8").replace("krill, 7 tons", "krill, seven tons"), "utf-8")
    assert workspace.ingest(allow_deletes=True).release == 2
    questions = root / "questions.yaml"
    questions.write_text("questions:\n  - text: whales sing\n    expect: ['docs:/tides.md']\n")
    workspace.evaluate(questions, release=2, mode="bm25")
    keys = Keys(root / ".ragops")
    return {
        "all": keys.create("all", tenant=None, scopes=SCOPES, rate="10000/second")[1],
        "acme": keys.create("acme", tenant="acme", rate="10000/second")[1],
        "globex": keys.create("globex", tenant="globex", rate="10000/second")[1],
        "slow": keys.create("slow", tenant=None, rate="3/hour")[1],
        "search": keys.create("search", tenant=None, scopes=("search",), rate="10000/second")[1],
        "read": keys.create("read", tenant=None, scopes=("read",), rate="10000/second")[1],
    }


@pytest.fixture(scope="module")
def kb(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    root = tmp_path_factory.mktemp("pages") / "kb"
    return root, make(root)


@pytest.fixture(scope="module")
def tokens(kb: tuple[Path, dict[str, str]]) -> dict[str, str]:
    return kb[1]


@pytest.fixture(scope="module")
def site(kb: tuple[Path, dict[str, str]]) -> Iterator[Served]:
    with served(kb[0]) as found:
        yield found


@pytest.fixture(scope="module")
def _chromium() -> Iterator[WebDriver]:
    with browser() as driver:
        yield driver


@pytest.fixture
def chromium(_chromium: WebDriver, site: Served) -> Iterator[WebDriver]:
    """Without a session, on a screen of a desk. After each test: nothing ran, and nobody else was asked."""
    _chromium.get(site.url + "/pages/static/icon.svg")
    _chromium.delete_all_cookies()
    screen(_chromium)
    _chromium.get_log("browser")
    asked(_chromium)
    yield _chromium
    assert {re.match(r"\w+://[^/]+", url)[0] for url in asked(_chromium)} <= {site.url}  # type: ignore[index]
    said = [entry["message"] for entry in _chromium.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]
    assert [line for line in said if "the server responded with a status of 4" not in line] == []
    assert _chromium.execute_script("return window.pwned") is None


# ---------------------------------------------------------------- what a person does
def one(driver: WebDriver | WebElement, css: str) -> WebElement:
    return driver.find_element(By.CSS_SELECTOR, css)


def each(driver: WebDriver | WebElement, css: str) -> list[WebElement]:
    return driver.find_elements(By.CSS_SELECTOR, css)


def wait(driver: WebDriver, css: str) -> WebElement:
    return WebDriverWait(driver, 30).until(lambda _: one(driver, css))


def follow(driver: WebDriver, element: WebElement) -> None:
    """Click, and wait for the page that comes."""
    old = one(driver, "html")
    element.click()
    WebDriverWait(driver, 30).until(lambda _: _is_gone(old))
    WebDriverWait(driver, 30).until(lambda _: driver.execute_script("return document.readyState") == "complete")


def _is_gone(element: WebElement) -> bool:
    from selenium.common.exceptions import WebDriverException

    try:
        element.is_enabled()
    except WebDriverException:
        return True
    return False


def log_in(driver: WebDriver, site: Served, token: str, path: str = "/") -> None:
    driver.get(site.url + path)
    one(driver, "#key").send_keys(token)
    follow(driver, one(driver, "main button"))


def ask(driver: WebDriver, text: str, **options: str) -> None:
    box = one(driver, "#q")
    box.clear()
    box.send_keys(text)
    if options and not one(driver, "details").get_attribute("open"):
        one(driver, "summary").click()
    for name, value in options.items():
        if name == "filter":
            one(driver, "#filter").clear()
            one(driver, "#filter").send_keys(value)
        else:
            Select(one(driver, f"#{name}")).select_by_visible_text(value)
    follow(driver, one(driver, ".ask button.main"))


def titles(driver: WebDriver) -> list[str]:
    return [hit.text.partition(" ")[2] for hit in each(driver, ".card h2")]


def test_log_in_and_out(chromium: WebDriver, site: Served, tokens: dict[str, str]) -> None:
    chromium.get(site.url + "/")
    assert chromium.title == "Log in · ragops"
    assert each(chromium, "#q") == []
    one(chromium, "#key").send_keys(tokens["all"][:-1] + "-")
    follow(chromium, one(chromium, "main button"))
    assert "unknown, revoked or expired" in one(chromium, "[role=alert]").text
    assert one(chromium, "#key").get_attribute("value") == ""
    one(chromium, "#key").send_keys(f" {tokens['all']} ")  # as it is copied
    follow(chromium, one(chromium, "main button"))
    assert one(chromium, "#q") == chromium.switch_to.active_element
    (cookie,) = chromium.get_cookies()
    assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, "Strict", "/")
    assert tokens["all"].rpartition("_")[2] not in cookie["value"]
    assert chromium.execute_script("return document.cookie") == ""
    follow(chromium, one(chromium, ".who button"))
    assert chromium.title == "Log in · ragops"
    assert chromium.get_cookies() == [] or "." not in chromium.get_cookies()[0]["value"]
    chromium.get(site.url + "/pages/releases")
    assert chromium.title == "Log in · ragops"


def test_after_the_login_comes_what_was_asked(chromium: WebDriver, site: Served, tokens: dict[str, str]) -> None:
    log_in(chromium, site, tokens["all"], "/?q=lobsters+%26+urchins&mode=bm25")
    assert chromium.current_url == site.url + "/?q=lobsters+%26+urchins&mode=bm25"
    assert titles(chromium) == ["New"]


def test_a_search_marks_words_and_tells_scores(chromium: WebDriver, site: Served, tokens: dict[str, str]) -> None:
    log_in(chromium, site, tokens["all"])
    ask(chromium, ASKED)
    assert len(each(chromium, ".card")) == 10
    assert one(chromium, "[role=status]").text == "10 passages, hybrid, release 2"
    best = one(chromium, ".card")
    assert "docs:/tides.md" in one(best, ".where").text
    assert {mark.text.lower() for mark in each(best, "mark")} == {"whales", "sing"}  # not "the", which is no such word
    legs = [leg.text for leg in each(best, ".legs > div")]
    assert [leg.split()[0] for leg in legs] == ["score", "dense", "bm25"]
    assert re.fullmatch(r"bm25 [\d.]+, place \d+", legs[2])
    ask(chromium, "song", mode="bm25", k="5", per_document="at most 1")
    assert {mark.text for mark in each(chromium, "mark")} == {"songs"}  # by its stem, as the keyword leg finds it
    assert titles(chromium) == ["Whales and tides"]
    assert Select(one(chromium, "#mode")).first_selected_option.text == "bm25"
    ask(chromium, "lobsters", mode="bm25", release="1", per_document="any number")
    assert titles(chromium) == ["Old"]
    assert "release 1" in one(chromium, "[role=status]").text
    ask(chromium, "lobsters", release="2", filter="source=docs")
    assert "No passage holds the filter" in one(chromium, "[role=status]").text
    ask(chromium, "plankton", filter='{"source": {"in": ["acme"]}}')
    assert titles(chromium) == ["Plan"]


def test_further_hits(chromium: WebDriver, site: Served, tokens: dict[str, str]) -> None:
    log_in(chromium, site, tokens["all"], "/?q=whales+sing&k=5")
    first = [hit.text for hit in each(chromium, ".card")]
    follow(chromium, one(chromium, "a[rel=next]"))
    second = [hit.text for hit in each(chromium, ".card")]
    assert not set(first) & set(second)
    assert one(chromium, ".card .rank").text == "6"
    follow(chromium, one(chromium, "a[rel=prev]"))
    assert [hit.text for hit in each(chromium, ".card")] == first


def test_what_is_wrong_is_told_beside_the_form(chromium: WebDriver, site: Served, tokens: dict[str, str]) -> None:
    log_in(chromium, site, tokens["all"])
    ask(chromium, "whales", filter="sauce=x")
    assert "no field 'sauce'" in one(chromium, "[role=alert]").text
    assert one(chromium, "#q").get_attribute("value") == "whales"
    assert one(chromium, "#filter").get_attribute("value") == "sauce=x"
    ask(chromium, "whales", filter="{")
    assert "not valid JSON" in one(chromium, "[role=alert]").text


def test_the_document_around_a_hit(chromium: WebDriver, site: Served, tokens: dict[str, str]) -> None:
    log_in(chromium, site, tokens["all"], "/?q=whales+of+day+75&mode=bm25&k=5")
    assert "day 75" in one(chromium, ".card").text
    follow(chromium, one(chromium, ".card a"))
    assert one(chromium, "h1").text == "Whales and tides"
    (hit,) = each(chromium, "#hit")
    assert "day 75" in hit.text
    assert {mark.text for mark in each(hit, "mark")} >= {"whales", "75"}
    assert chromium.execute_script("return scrollY") > 0
    text = one(chromium, ".text").text
    assert "The whales of day 73 sing" in text
    assert "The whales of day 77 sing" in text
    assert text.count("The whales of day 75 sing") == 1
    read = text
    while later := each(chromium, "a[rel=next]"):
        follow(chromium, later[0])
        read += one(chromium, ".text").text
    assert "day 149" in read
    follow(chromium, next(link for link in each(chromium, "a") if link.text == "Back to the hits"))
    assert chromium.current_url.endswith("/?q=whales+of+day+75&mode=bm25&k=5")


def test_releases_with_evaluation_and_changes(chromium: WebDriver, site: Served, tokens: dict[str, str]) -> None:
    log_in(chromium, site, tokens["all"], "/pages/releases")
    kept, told = each(chromium, "table")
    rows = [row.text for row in each(kept, "tbody tr")]
    assert rows[0].startswith("2 live")
    assert rows[1].startswith("1 ")
    assert "nDCG@10" in one(told, "thead").text
    assert re.match(r"2 bm25 1 .*1\.0000", one(told, "tbody tr").text)
    follow(chromium, one(kept, "a"))
    assert chromium.title == "Release 1 to 2 · ragops"
    found = {part.get_attribute("aria-labelledby"): part.text for part in each(chromium, "section")}
    assert set(found) == {"added", "removed", "changed", "moved"}
    assert "docs:/new.md" in found["added"]
    assert "docs:/old.md" in found["removed"]
    assert "docs:/tides.md passages: 1 new, 1 gone" in found["changed"]
    assert "acme:/plans.md was acme:/plan.md" in found["moved"]
    Select(one(chromium, "#a")).select_by_visible_text("2")
    Select(one(chromium, "#b")).select_by_visible_text("1")
    follow(chromium, one(chromium, ".ask button"))
    assert "docs:/old.md" in next(part.text for part in each(chromium, "section") if "Added" in part.text)


def test_usage_counts(chromium: WebDriver, site: Served, tokens: dict[str, str]) -> None:
    log_in(chromium, site, tokens["all"], "/pages/usage")
    chromium.get(site.url + "/?q=whales")
    chromium.get(site.url + "/?q=whales&k=x")
    chromium.get(site.url + "/pages/usage")

    def row(name: str) -> list[str]:
        rows = [[cell.text for cell in each(row, "th, td")] for row in each(chromium, "tbody tr")]
        return next(cells for cells in rows if cells[0].split()[0] == name)

    mine = row("all")
    assert "this session" in mine[0]
    assert mine[1] == "all tenants"
    assert int(mine[4]) >= 3
    assert int(mine[5]) >= 1
    assert row("acme")[1] == "tenant acme"


# ---------------------------------------------------------------- hostile texts
PLACES = [
    "/?q={q}",
    "/?q=attack&mode=bm25",
    "/?q=barnacles&mode=bm25",
    "/?q=x&filter={q}",
    "/?q=x&mode={q}",
    "/?q=x&release={q}",
    "/pages/document?id={q}",
    "/pages/document?id=docs:/evil.md&q={q}&back={q}&chunk={q}",
    "/pages/document?id=docs:/tides.md",
    "/pages/diff?a={q}",
    "/pages/diff",
    "/pages/releases",
    "/pages/usage",
]


@pytest.mark.parametrize("place", PLACES)
def test_nothing_that_is_said_runs(chromium: WebDriver, site: Served, tokens: dict[str, str], place: str) -> None:
    """Escaped, so that the policy has nothing to stop."""
    from urllib.parse import quote

    log_in(chromium, site, tokens["all"], "/pages/usage")
    chromium.get(site.url + place.format(q=quote("\"'></textarea></title>" + EVIL)))
    assert each(chromium, "main") != []
    assert each(chromium, "script, img, svg, iframe, object, embed, style, [onload], [onerror]") == []
    assert "49" not in one(chromium, "main").text or place != "/?q=attack&mode=bm25"  # no template in a document


def test_the_hostile_page_shows_what_it_says(chromium: WebDriver, site: Served, tokens: dict[str, str]) -> None:
    log_in(chromium, site, tokens["all"], "/pages/document?id=docs:/evil.md")
    assert EVIL in one(chromium, ".text").text
    assert "{{ 7*7 }}" in one(chromium, ".text").text
    chromium.get(site.url + "/pages/document?id=docs:/tides.md")
    assert f"Ada {EVIL}" in one(chromium, ".facts").text
    chromium.get(site.url + "/?q=barnacles&mode=bm25")
    assert "<img src=x onerror=window.pwned=1>.md" in one(chromium, ".where").text


# ---------------------------------------------------------------- for everybody
ALL = ["/", f"/?q={ASKED}&k=50", "/?q=unbroken+word&mode=bm25&k=5&filter=source%3Ddocs", "/?q=x&filter=%7B",
       "/pages/document?id=docs:/tides.md", "/pages/document?id=docs:/long.txt", "/pages/document?id=nothing",
       "/pages/releases", "/pages/diff", "/pages/usage"]  # fmt: skip


CUT = """
return [...document.querySelectorAll('main *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1)
  .map(e => e.outerHTML.slice(0, 100));
"""


@pytest.mark.parametrize("width", [320, 390, 768])
def test_no_page_is_wider_than_its_screen(
    chromium: WebDriver, site: Served, tokens: dict[str, str], width: int
) -> None:
    screen(chromium, width, 700)
    chromium.get(site.url + "/")
    wide = {"/ (login)": chromium.execute_script("return document.documentElement.scrollWidth")}
    log_in(chromium, site, tokens["all"])
    for path in ALL:
        chromium.get(site.url + path)
        assert each(chromium, "main") != []
        wide[path] = chromium.execute_script("return document.documentElement.scrollWidth")
        if width < 640:
            assert chromium.execute_script(CUT) == [], path
    assert {path: found for path, found in wide.items() if found > width} == {}


def test_a_label_for_every_field_and_landmarks(chromium: WebDriver, site: Served, tokens: dict[str, str]) -> None:
    def check(path: str) -> None:
        chromium.get(site.url + path)
        unlabelled = (
            "return [...document.querySelectorAll('input:not([type=hidden]), select, textarea')]"
            ".filter(e => !(e.labels && e.labels.length && e.labels[0].textContent.trim())).map(e => e.id)"
        )
        assert chromium.execute_script(unlabelled) == [], path
        assert len(each(chromium, "h1")) == len(each(chromium, "main")) == len(each(chromium, "header")) == 1, path
        assert one(chromium, "html").get_attribute("lang") == "en"
        levels = chromium.execute_script("return [...document.querySelectorAll('h1,h2,h3')].map(e => +e.tagName[1])")
        assert levels[:1] == [1]
        assert all(after <= before + 1 for before, after in pairwise(levels)), path
        ids = chromium.execute_script("return [...document.querySelectorAll('[id]')].map(e => e.id)")
        assert len(ids) == len(set(ids)), path

    check("/")
    log_in(chromium, site, tokens["all"])
    for path in ALL:
        check(path)
        assert one(chromium, "nav[aria-label=Pages]").is_displayed()


def test_by_keyboard_alone(chromium: WebDriver, site: Served, tokens: dict[str, str]) -> None:
    chromium.get(site.url + "/pages/releases")
    old = one(chromium, "html")
    chromium.switch_to.active_element.send_keys(tokens["all"], Press.ENTER)
    WebDriverWait(chromium, 30).until(lambda _: _is_gone(old))
    wait(chromium, "table")
    one(chromium, "body").send_keys(Press.TAB)
    skip = chromium.switch_to.active_element
    assert skip.text == "To the content"
    assert skip.is_displayed()
    assert chromium.execute_script("return arguments[0].getBoundingClientRect().left >= 0", skip)
    skip.send_keys(Press.ENTER)
    assert chromium.switch_to.active_element.get_attribute("id") == "content"
    chromium.get(site.url + "/")
    old = one(chromium, "html")
    chromium.switch_to.active_element.send_keys("whales", Press.ENTER)
    WebDriverWait(chromium, 30).until(lambda _: _is_gone(old))
    assert "whales" in wait(chromium, ".card").text.lower()


CONTRAST = """
const parts = c => (c.match(/[\\d.]+/g) || []).map(Number);
const part = v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
const light = c => { const [r, g, b] = parts(c).map(part); return .2126 * r + .7152 * g + .0722 * b; };
const ground = e => {
  for (; e; e = e.parentElement) {
    const c = getComputedStyle(e).backgroundColor;
    if (parts(c)[3] !== 0) return c;
  }
  return 'rgb(255, 255, 255)';
};
const said = e => [...e.childNodes].some(n => n.nodeType == 3 && n.data.trim());
return [...document.querySelectorAll('body *')].filter(said).map(e => {
  const a = light(getComputedStyle(e).color), b = light(ground(e));
  return [(Math.max(a, b) + .05) / (Math.min(a, b) + .05), e.outerHTML.slice(0, 80)];
}).filter(([c]) => c < 4.5);
"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_text_stands_out_from_its_ground(chromium: WebDriver, site: Served, tokens: dict[str, str], dark: bool) -> None:
    """At least 4.5 to 1 (WCAG AA), in both themes."""
    screen(chromium, dark=dark)
    chromium.get(site.url + "/")
    assert chromium.execute_script(CONTRAST) == []
    log_in(chromium, site, tokens["all"])
    grounds = set()
    for path in ALL:
        chromium.get(site.url + path)
        assert chromium.execute_script(CONTRAST) == [], path
        grounds.add(chromium.execute_script("return getComputedStyle(document.body).backgroundColor"))
    (ground,) = grounds
    assert (sum(map(int, re.findall(r"\d+", ground)[:3])) < 384) == dark


# ---------------------------------------------------------------- what a key may see
@contextmanager
def signed_in(site: Served, token: str) -> Iterator[httpx.Client]:
    with site.client() as client:
        found = client.get("/")
        form = {"token": hidden(found.text, "token"), "key": token, "going": "/pages/usage"}
        answer = client.post("/pages/login", data=form)
        assert (answer.status_code, answer.headers["location"]) == (303, "/pages/usage")
        yield client


def hidden(html: str, name: str) -> str:
    found = re.search(rf'name="{name}" value="([^"]*)"', html)
    assert found is not None
    return unescape(found[1])


def test_a_tenant_sees_its_own(site: Served, tokens: dict[str, str]) -> None:
    with signed_in(site, tokens["acme"]) as acme, signed_in(site, tokens["globex"]) as globex:
        found = acme.get("/", params={"q": "plankton secret fresh moving document", "k": 50}).text
        assert "acme:/plans.md" in found
        assert "globex:/" not in found
        assert "docs:/" not in found
        sly = acme.get("/", params={"q": "plankton", "filter": "tenant=globex"}).text
        assert "No passage holds the filter" in sly
        assert acme.get("/pages/document", params={"id": "globex:/secret.md"}).status_code == 404
        nothing = acme.get("/pages/document", params={"id": "globex:/nothing.md"})
        assert nothing.status_code == 404

        def changed(client: httpx.Client) -> dict[str, set[str]]:
            html = client.get("/pages/diff", params={"a": 1, "b": 2}).text
            parts = re.findall(r'<section aria-labelledby="(\w+)">(.*?)</section>', html, re.S)
            assert set(re.findall(r"(\d+) (?:added|removed|changed|moved)", html)) == {
                str(len(re.findall("<li>", dict(parts).get(name, ""))))
                for name in ("added", "removed", "changed", "moved")
            }
            return {name: set(re.findall(r"\b(?:acme|globex|docs):/[\w.]+(?=[<\s])", part)) for name, part in parts}

        # what went from one tenant to the other came from nowhere, or went there
        assert changed(acme) == {"added": {"acme:/moved.md"}, "moved": {"acme:/plans.md", "acme:/plan.md"}}
        assert changed(globex) == {"added": {"globex:/fresh.md"}, "removed": {"globex:/moving.md"}}
        usage = acme.get("/pages/usage").text
        assert "acme" in usage
        assert "globex" not in usage
        releases = acme.get("/pages/releases").text
        assert "Evaluations" not in releases
        assert "Passages" not in releases


def test_a_scope_opens_its_pages(site: Served, tokens: dict[str, str]) -> None:
    def statuses(name: str) -> list[int]:
        with signed_in(site, tokens[name]) as client:
            paths = (
                "/?q=whales",
                "/pages/document?id=docs:/tides.md",
                "/pages/releases",
                "/pages/diff",
                "/pages/usage",
            )
            return [client.get(path).status_code for path in paths]

    assert statuses("all") == [200, 200, 200, 200, 200]
    assert statuses("search") == [200, 403, 403, 403, 200]
    assert statuses("read") == [403, 200, 200, 200, 200]
    with signed_in(site, tokens["search"]) as client:
        assert "/pages/document" not in client.get("/?q=whales").text


def test_pages_count_against_the_rate(site: Served, tokens: dict[str, str]) -> None:
    with signed_in(site, tokens["slow"]) as client:
        found = [client.get("/?q=whales") for _ in range(4)]
    assert [answer.status_code for answer in found] == [200, 200, 200, 429]
    assert int(found[3].headers["retry-after"]) > 0
    assert "they are spent" in found[3].text


def test_pages_are_in_the_audit_log_without_a_word_of_the_query(
    site: Served, kb: tuple[Path, dict[str, str]], tokens: dict[str, str]
) -> None:
    with signed_in(site, tokens["acme"]) as client:
        request = client.get("/", params={"q": "plankton xylophone"}).headers["x-request-id"]
    lines = (kb[0] / ".ragops/log/audit.jsonl").read_text("utf-8").splitlines()
    (line,) = [line for line in lines if request in line]
    assert '"route":"/"' in line
    assert '"tenant":"acme"' in line
    assert not [line for line in lines if "xylophone" in line]
    assert not [line for line in site.errors if "xylophone" in line]
    assert not [line for line in lines if tokens["acme"] in line]


# ---------------------------------------------------------------- sessions and forms
def test_headers(site: Served, tokens: dict[str, str]) -> None:
    with signed_in(site, tokens["all"]) as client:
        for path in ALL:
            answer = client.get(path)
            assert answer.headers["content-type"] == "text/html; charset=utf-8"
            policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
            assert policy["default-src"] == "'none'"
            assert not {"script-src", "connect-src", "frame-src", "object-src"} & policy.keys()
            assert policy["form-action"] == "'self'"
            assert policy["frame-ancestors"] == "'none'"
            assert answer.headers["cache-control"] == "no-store"
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["referrer-policy"] == "no-referrer"
            assert "<script" not in answer.text
            assert not re.search(r"""(?:src|href|action)=["']?(?:https?:)?//""", answer.text)
            assert "style=" not in answer.text


def test_a_cookie_is_for_tls_where_there_is_tls(site: Served) -> None:
    with site.client() as client:
        plain = client.get("/").headers["set-cookie"].lower()
        assert "secure" not in plain
        assert "httponly" in plain
        assert "samesite=strict" in plain
    with site.client({"x-forwarded-proto": "https"}) as client:
        assert "; secure" in client.get("/").headers["set-cookie"].lower()


def test_forms_of_others_are_refused(site: Served, tokens: dict[str, str]) -> None:
    with site.client() as client:
        assert client.post("/pages/login", data={"key": tokens["all"]}).status_code == 403
        token = hidden(client.get("/").text, "token")
        other = {"sec-fetch-site": "cross-site"}
        assert (
            client.post("/pages/login", data={"key": tokens["all"], "token": token}, headers=other).status_code == 403
        )
        with site.client() as stranger:
            stranger.get("/")
            assert stranger.post("/pages/login", data={"key": tokens["all"], "token": token}).status_code == 403
        assert client.post("/pages/login", content=b"\xff\xfe").status_code == 422
        assert client.post("/pages/login", data={"token": token}).status_code == 401
    with signed_in(site, tokens["all"]) as client:
        token = hidden(client.get("/").text, "token")
        assert client.post("/pages/logout").status_code == 403
        assert client.post("/pages/logout", data={"token": "0" * 64}).status_code == 403
        assert client.post("/pages/logout", data={"token": token}, headers=other).status_code == 403
        assert client.get("/pages/usage").status_code == 200
        assert "this session" in client.get("/pages/usage").text
        assert client.post("/pages/logout", data={"token": token}).status_code == 303
        assert "Log in" in client.get("/pages/usage").text


@pytest.mark.parametrize(
    "going",
    [
        "https://evil.example/",
        "//evil.example/",
        "/\\evil.example",
        "javascript:alert(1)",
        "/v1/releases",
        "/pages/\r\nx: y",
    ],
)
def test_a_login_leads_nowhere_else(site: Served, tokens: dict[str, str], going: str) -> None:
    with site.client() as client:
        token = hidden(client.get("/").text, "token")
        answer = client.post("/pages/login", data={"key": tokens["all"], "token": token, "going": going})
        assert answer.headers["location"] == "/"


def test_the_api_takes_no_cookie(site: Served, tokens: dict[str, str]) -> None:
    with signed_in(site, tokens["all"]) as client:
        assert client.get("/v1/releases").status_code == 401
        assert client.post("/v1/search", json={"text": "whales"}).status_code == 401


def test_a_session_ends_with_its_key_and_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = Keys(tmp_path)
    sessions = Sessions(keys, tmp_path)
    key, _ = keys.create("a")
    other, _ = keys.create("b")
    cookie, second = sessions.begin(key), sessions.begin(other)
    assert sessions.key(cookie) == key
    assert not sessions.ages(cookie)
    assert Sessions(keys, tmp_path).key(cookie) == key  # another worker
    assert oct((tmp_path / FILE).stat().st_mode & 0o777) == "0o600"
    now = __import__("time").time()
    monkeypatch.setattr("ragops.service.sessions.time.time", lambda: now + SECONDS / 2 + 1)
    assert sessions.key(cookie) == key
    assert sessions.ages(cookie)
    longer = sessions.begin(key, cookie)
    assert sessions.form(longer) == sessions.form(cookie)  # a page that is open can still log out
    assert sessions.form(second) != sessions.form(cookie)
    monkeypatch.setattr("ragops.service.sessions.time.time", lambda: now + SECONDS + 1)
    assert sessions.key(cookie) is None
    assert sessions.key(longer) == key
    keys.revoke("a")
    assert sessions.key(longer) is None
    (tmp_path / FILE).write_bytes(b"0" * 64)
    assert Sessions(keys, tmp_path).key(sessions.begin(other)) is None


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_a_changed_cookie_opens_nothing(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    place = tmp_path_factory.getbasetemp() / "changed"
    keys = Keys(place)
    if not keys.all():
        keys.create("a")
        keys.create("b")
    a, b = keys.all()
    sessions = Sessions(keys, place)
    cookie = sessions.begin(a)
    assert sessions.key(cookie) == a
    at = data.draw(st.integers(0, len(cookie) - 1))
    letter = data.draw(st.sampled_from("0123456789abcdef.é\n"))
    changed = cookie[:at] + letter + cookie[at + 1 :]
    assert sessions.key(changed) is None or changed == cookie
    assert sessions.key(data.draw(st.text(max_size=200))) is None
    assert sessions.key(b.id + cookie[len(b.id) :]) is None


def test_without_keys_the_pages_are_open_to_this_machine(tmp_path: Path) -> None:
    root = tmp_path / "kb"
    Workspace.create(root)
    use_model(root)
    with served(root, "--no-auth") as site, site.client() as client:
        assert "No release yet" in client.get("/pages/releases").text
        assert client.get("/?q=whales").status_code == 503
        assert "runs without keys" in client.get("/pages/usage").text
        assert "Log out" not in client.get("/").text
        assert client.get("/", headers={"host": "evil.example"}).status_code == 403


# ---------------------------------------------------------------- marks
@given(st.text(max_size=200), st.text(max_size=60))
@settings(max_examples=300, deadline=None)
def test_marks_lose_and_add_nothing(text: str, query: str) -> None:
    pieces = Marker(query).pieces(text)
    assert "".join(piece for piece, _ in pieces) == text
    assert all(piece for piece, _ in pieces)


@pytest.mark.parametrize(
    ("query", "text", "marked"),
    [
        ("invoice", "Invoices, INVOICE; the invoicing", ["Invoices", "INVOICE", "invoicing"]),
        ("what is the tide?", "What the tide is", ["tide"]),
        ("", "nothing", []),
        ("naïve", "a naïve Naïve", ["naïve", "Naïve"]),
        ("鲸鱼", "鲸鱼在深海中歌唱", ["鲸鱼"]),
        ("a.b", "a.b", ["b"]),
        ("(", "( [ *", []),
    ],
)
def test_marks(query: str, text: str, marked: list[Any]) -> None:
    assert [piece for piece, found in Marker(query).pieces(text) if found] == marked
