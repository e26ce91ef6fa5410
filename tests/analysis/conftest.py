"""Studies that the tests of the report share: running and drawing them takes longer than looking at them."""

import shutil

import command_line
import pytest

TINY = "[prompts=16,pool_size=64]"
STUDIES = {
    "learning": f"compare --steps 6 --replicates 6 --learning-rates 1,2 -a dapo -a mopps -a vip[lower=9] "
    f"-s u-shaped-v1{TINY} -s weak-cold-v1{TINY}",
    "prediction": "predict --replicates 2 -p beta -p kalman -s u-shaped-v1[prompts=16,pool_size=32,steps=6]",
    "snapshot": "compare --snapshot --replicates 4 --prompts 16 -a vip[predictor=oracle] -a random "
    "-s snapshot-u-shaped-v1 -s snapshot-weak-v1",
}


@pytest.fixture(scope="session")
def studies(tmp_path_factory):
    """A finished study of each kind; in that of learning one allocator failed. Its plots are not saved."""
    made = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rolloutbench.analysis.plotting.panels.save", lambda figure, directory, name: None)
        for kind, command in STUDIES.items():
            made[kind] = tmp_path_factory.mktemp(kind) / "results"
            done = command_line.run(f"{command} --jobs 1 --out {made[kind]}")
            assert done.code == (1 if kind == "learning" else 0), done.err
    return made


@pytest.fixture(scope="module")
def browser():
    """Chromium without a screen."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    chromedriver = shutil.which("chromedriver")
    if chromium is None or chromedriver is None:
        pytest.skip("chromium or chromedriver is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(executable_path=chromedriver)
    driver = webdriver.Chrome(options=options, service=service)
    try:
        yield driver
    finally:
        driver.quit()
