"""The leaderboard as a reader has it: Chromium without a screen opens the file."""

import pytest
from browsed import CONTRASTS, PHONE, READABLE, WIDTHS, seen

from rolloutbench.analysis import leaderboard
from rolloutbench.analysis.leaderboard import View, standings
from rolloutbench.studies.kinds import open_results

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def found(studies):
    """The rows of the page, in Python."""
    return leaderboard.rows([open_results(studies["learning"])])


@pytest.fixture(scope="module")
def page(studies, tmp_path_factory):
    """The address of the page."""
    out = tmp_path_factory.mktemp("leaderboard") / "page.html"
    leaderboard.write([open_results(studies["learning"])], out)
    return out.as_uri()


@pytest.fixture(autouse=True)
def as_opened(browser, page):
    """Every test begins with the page as it is opened, wide and light."""
    seen(browser, 1280, "light")
    browser.get("about:blank")  # another address of the same page would not load it again
    browser.get(page)


def shown(browser):
    """Names, numbers and verdicts as they stand."""
    return browser.execute_script(
        "return [...document.querySelectorAll('#board tbody tr:not(.detail)')]"
        ".map((row) => [row.cells[0].textContent,"
        " row.querySelector('button').firstChild.textContent, row.cells[3].textContent])"
    )


def choose(browser, name, value):
    browser.find_element("css selector", f"select[name={name}] option[value='{value}']").click()


def as_told(found, view):
    digits = 3 if view.target == "area" else 2
    return [
        [one.allocator, f"{one.ratio.estimate:.{digits}f}", one.verdict] for one in standings(found, view)
    ]


def scenario_of(found):
    return sorted({row.scenario for row in found})[0]


@pytest.mark.parametrize("price", leaderboard.PRICES)
@pytest.mark.parametrize("target", leaderboard.TARGETS)
def test_the_page_stands_as_python_says(browser, found, price, target):
    choose(browser, "price", price)
    choose(browser, "target", target)
    choose(browser, "scenario", scenario_of(found))
    condition = browser.execute_script("return document.forms.view.condition.value")
    told = as_told(found, View(condition, scenario_of(found), price=price, target=target))
    assert len(told) >= 3
    assert shown(browser) == told


def test_it_opens_with_what_was_measured_most(browser, found):
    assert (
        browser.execute_script("return document.forms.view.condition.value")
        == leaderboard.first_view(found).condition
    )


def test_filters_leave_nothing_out_that_they_do_not_name(browser, found):
    choose(browser, "scenario", scenario_of(found))
    whole = shown(browser)
    counts = []
    for name in leaderboard.EPOCHS:
        choose(browser, "epochs", name)
        counts.append(len(shown(browser)))
    assert sorted(counts) == [0, 0, len(whole)]
    choose(browser, "epochs", "")
    assert shown(browser) == whole


def test_an_empty_view_says_so(browser):
    choose(browser, "epochs", "many")
    assert "Nothing was measured" in browser.find_element("id", "said").text
    assert not browser.find_element("id", "board").is_displayed()


def test_a_view_has_a_permanent_address(browser, page, found):
    choose(browser, "scenario", scenario_of(found))
    choose(browser, "price", "seconds")
    browser.find_element("css selector", "th[data-by=allocator] button").click()
    address, before = browser.current_url, shown(browser)
    assert address == browser.find_element("id", "link").get_property("href")
    assert {"price=seconds", "sort=allocator"} <= set(address.partition("#")[2].split("&"))
    browser.get("about:blank")
    browser.get(address)
    assert shown(browser) == before
    view = View(
        browser.execute_script("return document.forms.view.condition.value"),
        scenario_of(found),
        price="seconds",
    )
    browser.get("about:blank")
    browser.get(page + view.address)
    assert shown(browser) == as_told(found, view)


def test_an_address_of_nonsense_shows_the_page(browser, page, found):
    browser.get("about:blank")
    browser.get(f"{page}#price=gold&sort=up&scenario={'x' * 200}")
    assert browser.execute_script("return document.forms.view.price.value") == "rollouts"
    assert browser.get_log("browser") == []


@pytest.mark.parametrize("by", ["allocator", "ratio", "scenarios"])
def test_a_click_sorts_and_another_turns_round(browser, found, by):
    choose(browser, "scenario", scenario_of(found))
    header = browser.find_element("css selector", f"th[data-by={by}]")
    if header.get_attribute("aria-sort") is None:
        header.find_element("tag name", "button").click()
    before = shown(browser)
    assert header.get_attribute("aria-sort") == "ascending"
    if by == "allocator":
        assert [name for name, *_ in before] == sorted((name for name, *_ in before), key=str.lower)
    header.find_element("tag name", "button").click()
    assert header.get_attribute("aria-sort") == "descending"
    assert shown(browser) == before[::-1]


def test_every_number_opens_to_its_command(browser, studies, found):
    choose(browser, "scenario", scenario_of(found))
    command = open_results(studies["learning"]).record["command"]
    buttons = browser.find_elements("css selector", "#board tbody button")
    for button in buttons:
        button.click()
        assert button.get_attribute("aria-expanded") == "true"
    details = browser.find_elements("css selector", "tr.detail")
    assert len(details) == len(buttons)
    assert all(command in detail.text and scenario_of(found) in detail.text for detail in details)
    buttons[0].click()
    assert len(browser.find_elements("css selector", "tr.detail")) == len(buttons) - 1


@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_never_scrolls_sideways(browser, page, found, width):
    seen(browser, width, "light")
    browser.get("about:blank")
    browser.get(page)
    choose(browser, "scenario", scenario_of(found))
    for button in browser.find_elements("css selector", "#board tbody button")[:2]:
        button.click()
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    if width == PHONE:
        assert browser.find_element("css selector", "#board tbody button").is_displayed()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_has_contrast(browser, page, found, scheme):
    seen(browser, 1280, scheme)
    browser.get("about:blank")
    browser.get(page)
    choose(browser, "scenario", scenario_of(found))
    browser.find_element("css selector", "#board tbody button").click()
    contrasts = browser.execute_script(CONTRASTS)
    assert len(contrasts) > 30
    assert [who for contrast, who in contrasts if contrast < READABLE] == []


def test_no_complaint_and_no_request(browser, page):
    browser.get_log("performance")
    browser.get_log("browser")
    browser.refresh()
    assert browser.get_log("browser") == []
