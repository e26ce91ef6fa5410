"""Looking at pages in Chromium: widths, day and night, and the contrast of all text."""

PHONE = 360
WIDTHS = (PHONE, 768, 1280)
READABLE = 4.5
"""Contrast that WCAG 2 asks of text, level AA."""


def seen(browser, width, scheme):
    """Look at the page at another width, by day or by night."""
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})


CONTRASTS = """
const channels = (color) => color.match(/[\\d.]+/g).map(Number);
const luminance = (color) => {
  const [r, g, b] = color.slice(0, 3).map((v) => v / 255)
    .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const behind = (element) => {
  for (let e = element; e; e = e.parentElement) {
    const color = channels(getComputedStyle(e).backgroundColor);
    if (color.length === 3 || color[3] === 1) return color;
  }
  return [255, 255, 255];
};
const texts = "p, li, h1, h2, h3, dt, dd, summary, caption span, figcaption, figcaption strong, th, td, a,"
  + " th button, .interval, pre, code, select, #theme";
const found = [];
for (const element of document.querySelectorAll(texts)) {
  if (!element.textContent.trim() || !element.checkVisibility()) continue;
  const a = luminance(channels(getComputedStyle(element).color)), b = luminance(behind(element));
  found.push([(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05),
    element.tagName + "." + element.className + ": " + element.textContent.trim().slice(0, 30)]);
}
return found;
"""
