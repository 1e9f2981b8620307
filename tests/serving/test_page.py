"""The page in a real browser: what it shows, how it is used by keyboard, that it asks nothing of other servers."""

from __future__ import annotations

import json
import shutil
import time

import pytest

try:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
except ModuleNotFoundError:
    pytest.skip("selenium is not installed: the page is not tested", allow_module_level=True)

from simcse.serving.app import create_app

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage --window-size=1280,900"
)

SECONDS = 60  # for what takes one on an idle machine

pytestmark = [
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER), reason="the page is not tested: apt-get install chromium chromium-driver"
    ),
    # uvloop and selenium close their own sockets late
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture(scope="module")
def url(serve, index, encoder):
    return serve(create_app(index, encoder))


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in [*FLAGS.split(), f"--user-data-dir={tmp_path_factory.mktemp('browser')}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    driver.set_script_timeout(SECONDS)
    yield driver
    driver.quit()


def until(condition, seconds=SECONDS):
    """The first true value of `condition()`."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)
    return value


def ready(browser, url):
    browser.get(url)
    until(lambda: browser.execute_script("return document.documentElement.dataset.ready"))


def one(browser, selector):
    return browser.find_element(By.CSS_SELECTOR, selector)


def texts(browser, selector):
    return browser.execute_script("return [...document.querySelectorAll(arguments[0])].map(e => e.innerText)", selector)


def emulate(browser, width, height, scheme, motion="no-preference"):
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 700},
    )
    wanted = {"prefers-color-scheme": scheme, "prefers-reduced-motion": motion}
    features = [{"name": name, "value": value} for name, value in wanted.items()]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def test_results_follow_as_one_types(browser, url, index, sentences):
    ready(browser, url)
    one(browser, "#query").send_keys(sentences[11])
    until(lambda: texts(browser, ".hit p")[:1] == [sentences[11]])
    expected = index.search(sentences[11], top_k=10)[0]
    assert len(texts(browser, ".hit p")) == 10
    assert texts(browser, ".hit .score") == [f"{hit.score:.2f}" for hit in expected]
    widths = browser.execute_script(
        "return [...document.querySelectorAll('.bar i')].map(e => parseFloat(e.style.width))"
    )
    assert widths == pytest.approx([100 * min(1, hit.score) for hit in expected], abs=0.01)
    assert texts(browser, "#status")[0].startswith("10 hits, the best with 1.00")
    assert "q=" in browser.current_url
    ready(browser, browser.current_url)  # the address holds the search
    until(lambda: texts(browser, ".hit p")[:1] == [sentences[11]])


def test_the_keyboard_is_enough(browser, url):
    ready(browser, url)
    browser.execute_script("document.activeElement.blur()")
    body = one(browser, "body")
    body.send_keys("/")
    focused = lambda: browser.switch_to.active_element  # noqa: E731
    assert focused().get_attribute("id") == "query"
    focused().send_keys("a dog sings")
    until(lambda: texts(browser, ".hit"))
    for _ in range(2):
        focused().send_keys(Keys.ARROW_DOWN)
    assert focused().text.startswith("2")
    focused().send_keys(Keys.END)
    assert focused().text.startswith("10")
    focused().send_keys(Keys.ARROW_DOWN)  # there is no other
    assert focused().text.startswith("10")
    focused().send_keys(Keys.HOME)
    assert focused().text.startswith("1")
    focused().send_keys(Keys.ARROW_UP)
    assert focused().get_attribute("id") == "query"
    focused().send_keys(Keys.HOME)  # moves in the text, as everywhere
    assert focused().get_attribute("id") == "query"
    focused().send_keys(Keys.ESCAPE)
    until(lambda: not texts(browser, ".hit"))
    assert one(browser, "#welcome").is_displayed()


LINKS = {"url": 'https://example.org/a?b="c', "script": "javascript:document.title='taken'"}


def test_text_of_the_index_is_shown_as_text(browser, serve, encoder):
    """Markup and script in texts and metadata are characters, not elements."""
    from simcse import SearchIndex

    nasty = "<img src=x onerror=\"document.title='taken'\"><b>a dog</b>"
    index = SearchIndex.build([nasty, "a cat"], encoder.encode, metadata=[{"<i>k</i>": nasty}, LINKS])
    ready(browser, serve(create_app(index, encoder)))
    one(browser, "#query").send_keys("a dog")
    until(lambda: nasty in texts(browser, ".hit p"))
    assert browser.execute_script("return document.querySelectorAll('.hit img, .hit b, .hit i i').length") == 0
    assert texts(browser, ".hit p mark") == ["dog"]
    one(browser, "#query").clear()
    one(browser, "#query").send_keys("<img src=x> b onerror")
    until(lambda: set(texts(browser, ".hit p mark")) == {"img", "src", "x", "b", "onerror"})
    assert nasty in texts(browser, ".hit p")
    assert browser.execute_script("return document.querySelectorAll('.hit img, .hit b').length") == 0
    links = browser.execute_script("return [...document.querySelectorAll('.hit a')].map(e => [e.href, e.rel])")
    assert links == [["https://example.org/a?b=%22c", "noopener noreferrer"]]
    assert browser.title != "taken"


ABSTRACT = " ".join(f"Sentence {i} of an abstract tells of a Café and of rivers." for i in range(40))


@pytest.fixture(scope="module")
def abstracts(serve, encoder):
    """The address of ten long texts."""
    from simcse import SearchIndex

    metadata = [{"number": i, **{f"field {j}": "a value of some length" for j in range(9)}} for i in range(10)]
    index = SearchIndex.build([f"Abstract {i}. {ABSTRACT}" for i in range(10)], encoder.encode, metadata=metadata)
    return f"{serve(create_app(index, encoder))}/?q=a+cafe+at+river+of+abstract"


def shown(browser):
    """Whether the second hit is open, and what its button and its height say of it."""
    return browser.execute_script(
        """const hit = document.querySelectorAll(".hit")[1];
        const button = hit.querySelector(".open"), p = hit.querySelector("p");
        return [button.getAttribute("aria-expanded"), button.innerText, p.clientHeight === p.scrollHeight,
          getComputedStyle(hit.querySelector(".extra")).display !== "none"];"""
    )


def test_long_texts_are_cut_until_they_are_opened(browser, abstracts):
    emulate(browser, 1280, 900, "light")
    ready(browser, abstracts)
    until(lambda: len(texts(browser, ".hit")) == 10)
    lines = (
        "const p = document.querySelector('.hit p'); return p.clientHeight / parseFloat(getComputedStyle(p).lineHeight)"
    )
    assert browser.execute_script(lines) == pytest.approx(4, abs=0.1)
    assert shown(browser) == ["false", "Show all", False, False]
    hit = browser.find_elements(By.CSS_SELECTOR, ".hit")[1]
    hit.send_keys(Keys.ENTER)
    assert shown(browser) == ["true", "Show less", True, True]
    hit.send_keys(Keys.TAB)
    assert browser.switch_to.active_element.text == "Show less"
    browser.switch_to.active_element.send_keys(Keys.ENTER)
    assert shown(browser) == ["false", "Show all", False, False]
    browser.switch_to.active_element.send_keys(Keys.SPACE)
    assert shown(browser)[0] == "true"
    assert set(texts(browser, ".hit:first-child mark")) == {"Abstract", "abstract", "Café", "rivers"}


def test_a_text_is_copied_whole(browser, abstracts):
    ready(browser, abstracts)
    until(lambda: len(texts(browser, ".hit")) == 10)
    whole = browser.execute_script("return document.querySelector('.hit p').textContent")
    assert whole.endswith(ABSTRACT)
    browser.execute_script(  # it is said for a moment only
        """window.said = [];
        const note = () => window.said.push(document.getElementById("said").textContent);
        new MutationObserver(note).observe(document.getElementById("said"), {childList: true});"""
    )
    one(browser, ".hit").send_keys("c")
    until(lambda: "Copied" in browser.execute_script("return window.said"))
    assert "hit" in browser.switch_to.active_element.get_attribute("class"), "the focus stays"
    field = one(browser, "#sentences")
    field.clear()
    field.send_keys(Keys.CONTROL, "v")
    assert field.get_property("value") == whole
    until(lambda: one(browser, ".hit .copy").text == "Copy")
    assert browser.execute_script("return window.said") == ["Copied", ""]


def test_ten_abstracts_fit_a_phone(browser, abstracts):
    emulate(browser, 390, 844, "light")
    ready(browser, abstracts)
    until(lambda: len(texts(browser, ".hit.long")) == 10)
    assert browser.execute_script("return document.documentElement.scrollHeight") < 6000
    browser.execute_script("document.querySelectorAll('.hit .open').forEach(button => button.click())")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390


def test_hits_are_filtered_by_metadata(browser, url, index, sentences):
    emulate(browser, 1280, 900, "light")
    ready(browser, url)
    field, problem = one(browser, "#where"), one(browser, "#where-problem")
    assert "fields: lang, year" in field.get_attribute("placeholder")
    one(browser, "#query").send_keys(sentences[11])
    until(lambda: texts(browser, ".hit p")[:1] == [sentences[11]])
    field.send_keys("lang=de, year>=2010", Keys.ENTER)
    expected = index.search(sentences[11], top_k=10, where={"lang": "de", "year": {">=": 2010}})[0]
    until(lambda: texts(browser, ".hit p") == [hit.text for hit in expected])
    assert not problem.is_displayed()
    ready(browser, browser.current_url)  # the address holds the filter
    until(lambda: texts(browser, ".hit p") == [hit.text for hit in expected])
    field, problem = one(browser, "#where"), one(browser, "#where-problem")
    for wrong, told in (
        ("lang", "expected FIELD=VALUE"),
        ("longue=de", "unknown field 'longue'"),
        ('{"lang": ', "broken JSON"),
        ("year=9007199254740993", "beyond 2^53"),
        ("lang=de, lang=en", "write several values as lang=A|B"),
    ):
        field.clear()
        field.send_keys(wrong, Keys.ENTER)
        until(lambda: told in problem.text)  # noqa: B023
        assert field.get_attribute("aria-invalid") == "true"
    field.clear()
    field.send_keys("year<1900", Keys.ENTER)
    until(lambda: "no text fits the filter" in one(browser, "#status").text)
    assert not problem.is_displayed()
    assert field.get_attribute("aria-invalid") is None


@pytest.mark.parametrize(
    "conditions",
    [
        ["lang=en"], ["lang=en|de"], ["year>=2000", "year<2010"], ["year!=1999"], ["a=1", "b=true", "c=null", "d=1.5"],
        ['a="x, y"', "b=c"], ["a=NaN"], ["a=b=c"], ["a="], ["a=01"], ['a="1"'], ["__proto__=1"], ["größe<=-2e3"], [],
    ],
)  # fmt: skip
def test_a_filter_means_what_the_command_line_makes_of_it(browser, url, conditions):
    from simcse.search.filters import parse_conditions

    ready(browser, url)
    parsed = browser.execute_async_script(
        """const done = arguments[1];
        import("/static/filter.js").then(({parseFilter}) => done(JSON.stringify(parseFilter(arguments[0]))));""",
        ", ".join(conditions),
    )
    assert json.loads(parsed) == parse_conditions(conditions)


def test_the_map_keeps_neighbours_together_once_it_is_done(browser, url):
    ready(browser, url)
    until(lambda: one(browser, "#map-about").get_attribute("data-method") == "t-SNE")
    assert "Near means similar" in one(browser, "#map-about").text


def test_nothing_moves_where_that_is_not_wanted(browser, url, sentences):
    for wanted, moves in (("no-preference", True), ("reduce", False)):
        emulate(browser, 1280, 900, "light", motion=wanted)
        ready(browser, f"{url}/?q={sentences[0]}")
        until(lambda: texts(browser, ".hit"))
        style = "const s = (q) => getComputedStyle(document.querySelector(q));"
        moving = f"{style} return [s('html').scrollBehavior !== 'auto', s('.bar i').transitionDuration !== '0s']"
        assert browser.execute_script(moving) == [moves, moves]


def test_the_similarity_table_is_that_of_the_encoder(browser, url, encoder, sentences):
    ready(browser, url)
    field = one(browser, "#sentences")
    field.clear()
    field.send_keys("\n".join(sentences[:3]))
    until(lambda: len(texts(browser, "#heat tbody tr")) == 3)
    expected = encoder.similarity(sentences[:3], sentences[:3])
    shown = [float(cell) for cell in texts(browser, "#heat tbody td")]
    assert shown == pytest.approx(expected.ravel().tolist(), abs=0.0051)
    assert texts(browser, "#heat tbody th")[0].endswith(sentences[0])


def test_hovering_the_map_names_the_text_under_the_pointer(browser, url, sentences):
    ready(browser, url)
    one(browser, "#query").send_keys(sentences[20])
    until(lambda: texts(browser, ".hit p")[:1] == [sentences[20]])
    until(lambda: "10 hits are lit" in one(browser, "#map").get_attribute("aria-label"))
    until(lambda: one(browser, "#map-about").get_attribute("data-method"))  # it is not drawn anew meanwhile
    browser.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
    # look for any spot of the map that shows the best hit
    found = browser.execute_script(
        """const map = document.getElementById("map"), box = map.getBoundingClientRect(), seen = new Set();
        for (let x = 4; x < box.width; x += 8) for (let y = 4; y < box.height; y += 8) {
          const at = {clientX: box.left + x, clientY: box.top + y, pointerId: 1, bubbles: true};
          map.dispatchEvent(new PointerEvent("pointermove", at));
          const tip = document.getElementById("map-tip");
          if (!tip.hidden) seen.add(tip.textContent);
          const lit = document.querySelector(".hit.lit p");
          if (tip.textContent.startsWith("1. ")) return [tip.textContent, lit?.innerText];
        }
        return [...seen];"""
    )
    assert found[0] == f"1. (1.00) {sentences[20]}"
    assert found[1] == sentences[20]


def test_without_texts_there_is_nothing_to_search_but_to_compare(browser, serve, encoder):
    ready(browser, f"{serve(create_app(None, encoder))}/?q=a+dog")
    assert one(browser, "#title").text == encoder.name.rpartition("/")[2]
    assert one(browser, "#nothing").is_displayed()
    assert not one(browser, "#search").is_displayed()
    until(lambda: texts(browser, "#heat tbody tr"))


def test_facts_name_index_and_encoder(browser, url, index, encoder):
    ready(browser, url)
    facts = dict(zip(texts(browser, "#facts dt"), texts(browser, "#facts dd"), strict=True))
    assert facts["texts"] == str(len(index))
    assert facts["pooling"] == encoder.pooling
    assert facts["fingerprint"] == encoder.fingerprint


def test_a_token_is_asked_for_until_it_is_right(browser, serve, index, encoder, sentences):
    browser.get(serve(create_app(index, encoder, token="s3cret")))
    until(lambda: one(browser, "#token-dialog").is_displayed())
    one(browser, "#token").send_keys("wrong", Keys.ENTER)
    until(lambda: one(browser, "#token-problem").is_displayed())
    one(browser, "#token").send_keys("s3cret", Keys.ENTER)
    until(lambda: browser.execute_script("return document.documentElement.dataset.ready"))
    one(browser, "#query").send_keys(sentences[0])
    until(lambda: texts(browser, ".hit p")[:1] == [sentences[0]])


def press(browser, name, within=""):
    """The button of this name, once it is there, pressed."""
    path = f"//div[contains(@id, '{within}')]//button[normalize-space()='{name}']"
    until(lambda: browser.find_elements(By.XPATH, path))[0].send_keys(Keys.ENTER)


def test_the_interface_can_be_tried_on_its_page(browser, serve, index, encoder):
    url = serve(create_app(index, encoder, token="s3cret"))
    browser.get(f"{url}/docs")
    until(lambda: one(browser, "#token-dialog").is_displayed())
    one(browser, "#token").send_keys("s3cret", Keys.ENTER)
    until(lambda: browser.execute_script("return document.documentElement.dataset.ready"))
    operation = "#operations-Search_and_compare-search_api_search_post"
    until(lambda: browser.find_elements(By.CSS_SELECTOR, f"{operation} .opblock-summary-control"))[0].send_keys(
        Keys.ENTER
    )
    until(lambda: f"curl {url}/api/search" in one(browser, operation).text)
    assert 'answer = requests.post("' in one(browser, operation).text
    shown = [text for text in texts(browser, f"{operation} .responses-table .example") if '"results"' in text]
    assert '"metadata"' in shown[0], "what lies in what lies in an answer is shown"
    press(browser, "Execute", "search_api_search_post")
    answer = until(
        lambda: texts(browser, f"{operation} .live-responses-table .response-col_description .highlight-code")
    )
    assert '"score"' in answer[0]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_of_the_interface_fits(browser, url, width, scheme):
    emulate(browser, width, 900, scheme)
    ready(browser, f"{url}/docs")
    until(lambda: len(texts(browser, ".opblock")) > 8)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert browser.execute_script("return document.documentElement.classList.contains('dark-mode')") == (
        scheme == "dark"
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(390, 844), (820, 1180), (1280, 900)])
def test_it_fits_from_phone_to_desktop_in_light_and_dark(browser, url, sentences, width, height, scheme):
    """Nothing is wider than the screen, everything to press is large enough, and text stands out by 4.5 to 1."""
    emulate(browser, width, height, scheme)
    ready(browser, f"{url}/?q={sentences[0]}")
    until(lambda: texts(browser, ".hit"))
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    small = browser.execute_script(
        """return [...document.querySelectorAll("button, select, nav a")].filter(e => e.offsetParent)
        .map(e => [e.outerHTML.slice(0, 60), e.getBoundingClientRect().height]).filter(([, h]) => h < 24)"""
    )
    assert small == []
    weak = browser.execute_script(
        """const channels = c => c.match(/[\\d.]+/g).map(Number);
        const linear = v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
        const light = ([r, g, b]) => 0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
        const ground = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
          if (c.startsWith("rgb(")) return channels(c); if (c.startsWith("oklab")) return null; } return null; };
        const weak = [];
        const read = "p, h1, h2, h3, a, label, dt, dd, th, .score, .tag, .rank, button, input";
        for (const e of document.querySelectorAll(read)) {
          const under = ground(e);
          if (!e.offsetParent || !under) continue;
          const [a, b] = [light(channels(getComputedStyle(e).color)), light(under)].sort((x, y) => y - x);
          if ((a + 0.05) / (b + 0.05) < 4.5) weak.push([e.outerHTML.slice(0, 60), (a + 0.05) / (b + 0.05)]);
        }
        return weak;"""
    )
    assert weak == []


def test_everything_has_a_name_for_a_screen_reader(browser, url, sentences):
    ready(browser, f"{url}/?q={sentences[0]}")
    until(lambda: texts(browser, ".hit"))
    nodes = browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    roles = ("button", "textbox", "searchbox", "combobox", "slider", "link", "image", "heading", "region")
    named = [
        (n["role"]["value"], n.get("name", {}).get("value")) for n in nodes if not n.get("ignored") and "role" in n
    ]
    assert [node for node in named if node[0] in roles and not node[1]] == []
    assert ("searchbox", "Search for a meaning") in named
    assert any(role == "status" for role, _ in named)


def test_no_request_leaves_the_server_and_nothing_fails(browser, url):
    """Runs last: what all the tests above have made the browser ask for."""
    ready(browser, url)
    asked = []
    for entry in browser.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            asked.append(message["params"]["request"]["url"])
    assert asked
    outside = [
        address for address in asked if not address.startswith(("http://127.0.0.1:", "data:", "blob:", "chrome:"))
    ]
    assert outside == []
    wanted = ("401 (Unauthorized)", "422 (Unprocessable")  # by tests above
    failed = [entry["message"] for entry in browser.get_log("browser")]
    assert [message for message in failed if not any(status in message for status in wanted)] == []
