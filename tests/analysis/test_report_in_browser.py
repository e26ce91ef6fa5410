"""The report as a reader has it: Chromium without a screen opens the file."""

import json
from urllib.parse import urlsplit

import pytest
from browsed import CONTRASTS, PHONE, READABLE, WIDTHS, seen

from rolloutbench.analysis import report
from rolloutbench.studies.kinds import open_results

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def page(studies, tmp_path_factory):
    """The address of a report of two studies."""
    out = tmp_path_factory.mktemp("report")
    return report.write([open_results(studies[name]) for name in ("learning", "prediction")], out)[0].as_uri()


@pytest.fixture(autouse=True)
def as_opened(browser, page):
    """Every test begins with the page as it is opened, wide and light."""
    seen(browser, 1280, "light")
    browser.get(page)


def column(browser, table, place):
    """The sort keys of a column as they stand: numbers, None where there is none, or text."""
    return browser.execute_script(
        "return [...arguments[0].tBodies[0].rows].map((row) => row.cells[arguments[1]])"
        ".map((cell) => cell.tagName === 'TH' ? cell.textContent : Number(cell.dataset.value ?? NaN));",
        table,
        place,
    )


def table_and_header(browser, kind, place):
    table = browser.find_element("css selector", f"table.{kind}")
    return table, table.find_elements("css selector", "thead th")[place]


def test_no_complaint_and_no_request(browser, page):
    browser.get_log("performance")
    browser.refresh()
    assert browser.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert page in asked
    assert {urlsplit(url).scheme for url in asked} <= {"file", "data"}
    assert [url for url in asked if url.startswith("file:")] == [page]


def test_the_policy_holds(browser):
    """What somebody might smuggle in does not run, and says so in the console."""
    browser.execute_script(
        "const script = document.createElement('script'); script.textContent = 'window.ran = true';"
        "document.body.append(script);"
        "const image = new Image(); image.src = 'http://127.0.0.1:9/x.png'; document.body.append(image);"
    )
    assert browser.execute_script("return window.ran") is None
    complaints = [entry["message"] for entry in browser.get_log("browser")]
    assert any("Content Security Policy" in complaint for complaint in complaints)


def test_every_figure_is_drawn(browser):
    widths = browser.execute_script("return [...document.images].map((image) => image.naturalWidth)")
    assert len(widths) == 12
    assert min(widths) > 100


def test_a_click_sorts_numbers_as_numbers(browser):
    table, header = table_and_header(browser, "scenario", 10)  # rollouts per step: 128 is less than 384
    before = column(browser, table, 10)
    header.find_element("tag name", "button").click()
    assert header.get_attribute("aria-sort") == "ascending"
    assert column(browser, table, 10) == sorted(before)
    header.find_element("tag name", "button").click()
    assert header.get_attribute("aria-sort") == "descending"
    assert column(browser, table, 10) == sorted(before, reverse=True)
    assert len(table.find_elements("css selector", "[aria-sort]")) == 1


def test_names_sort_as_text_and_ties_stay(browser):
    table, header = table_and_header(browser, "scenario", 0)
    header.find_element("tag name", "button").click()
    names = column(browser, table, 0)
    assert names == sorted(names)
    browser.execute_script(
        "for (const row of arguments[0].tBodies[0].rows) row.cells[10].dataset.value = 7;", table
    )
    for _ in range(2):  # both directions leave what is equal as it stands
        table.find_elements("css selector", "thead th button")[-1].click()
        assert column(browser, table, 0) == names


def test_what_has_no_number_is_last(browser):
    table, header = table_and_header(browser, "scenario", 7)
    browser.execute_script("delete arguments[0].tBodies[0].rows[1].cells[7].dataset.value", table)
    for _ in range(2):
        header.find_element("tag name", "button").click()
        values = column(browser, table, 7)
        assert values[-1] is None
        assert None not in values[:-1]


@pytest.mark.parametrize("key", ["ENTER", "SPACE"])
def test_the_keyboard_sorts(browser, key):
    from selenium.webdriver.common.keys import Keys

    table, header = table_and_header(browser, "ranking", 2)
    assert header.get_attribute("aria-sort") == "ascending"  # it stands so already
    before = column(browser, table, 2)
    button = header.find_element("tag name", "button")
    button.send_keys(getattr(Keys, key))
    assert header.get_attribute("aria-sort") == "descending"
    assert column(browser, table, 2) == sorted(before, reverse=True)
    assert browser.switch_to.active_element == button


def test_the_heat_map_shows_another_metric(browser):
    maps = browser.find_elements("css selector", ".heat-map")
    assert [m.is_displayed() for m in maps] == [True, False, False, False]
    browser.find_element("css selector", "select.metric option:nth-child(2)").click()
    assert [m.is_displayed() for m in maps] == [False, True, False, False]


@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_never_scrolls_sideways(browser, page, width):
    seen(browser, width, "light")
    browser.get(page)
    browser.execute_script("for (const d of document.querySelectorAll('details')) d.open = true;")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width


def test_names_stay_in_sight_while_a_table_scrolls(browser, page):
    seen(browser, PHONE, "light")
    browser.get(page)
    table = browser.find_element("css selector", "table.scenario")
    moved = browser.execute_script(
        "const box = arguments[0].parentElement; box.scrollLeft = 300;"
        "const name = arguments[0].tBodies[0].rows[0].cells[0];"
        "return [box.scrollLeft, name.getBoundingClientRect().left - box.getBoundingClientRect().left];",
        table,
    )
    assert moved[0] == 300
    assert abs(moved[1]) <= 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_has_contrast(browser, page, scheme):
    seen(browser, 1280, scheme)
    browser.get(page)
    browser.execute_script(
        "for (const d of document.querySelectorAll('details')) d.open = true;"
        "const cells = document.querySelectorAll('.heat td');"  # every colour, also those not needed here
        "['better', 'worse'].flatMap((v) => [0, 1, 2, 3].map((n) => `${v}-${n}`))"
        ".forEach((tone, place) => { cells[place].className = tone; });"
    )
    found = browser.execute_script(CONTRASTS)
    assert len(found) > 200
    assert [who for contrast, who in found if contrast < READABLE] == []


def background(browser):
    return browser.execute_script("return getComputedStyle(document.body).backgroundColor")


def test_dark_and_light(browser, page):
    light = background(browser)
    seen(browser, 1280, "dark")
    dark = background(browser)
    assert (light, dark) == ("rgb(255, 255, 255)", "rgb(20, 23, 27)")
    button = browser.find_element("id", "theme")
    button.click()
    assert background(browser) == light
    button.click()
    assert background(browser) == dark


def test_paper_is_light_and_shows_everything(browser):
    seen(browser, 1280, "dark")
    feature = {"name": "prefers-color-scheme", "value": "dark"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": [feature]})
    assert background(browser) == "rgb(255, 255, 255)"
    browser.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert browser.execute_script("return [...document.querySelectorAll('details')].every((d) => d.open)")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
