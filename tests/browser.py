"""Pages in headless Chromium, which is not downloaded: tests are skipped where there is none."""

import base64
import hashlib
import html
import json
import pathlib
import re
import shutil
import subprocess
from typing import Any

import pytest

_CHROMIUM = shutil.which('chromium') or shutil.which('chromium-browser')

# Before all scripts of the page. What a browser reports when an element is resized twice is none.
_COLLECT = """
window.problems = [];
addEventListener('error', (event) => {
  if (!/ResizeObserver loop/.test(event.message)) problems.push(String(event.message));
}, true);
addEventListener('unhandledrejection', (event) => problems.push(String(event.reason)));
addEventListener('securitypolicyviolation', (event) => problems.push(event.blockedURI));
for (const level of ['error', 'warn']) {
  console[level] = (...words) => problems.push(words.join(' '));
}
"""
# After them, with the test's own steps.
_REPORT = """
function everywhere(selector, root = document) {
  const inside = [...root.querySelectorAll('*')].flatMap((element) =>
    element.shadowRoot ? everywhere(selector, element.shadowRoot) : []);
  return [...root.querySelectorAll(selector), ...inside];
}
const texts = (selector) => [...document.querySelectorAll(selector)].map((e) => e.textContent);
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
async function main() {
  const boxes = [...document.querySelectorAll('.plot')];
  const plots = boxes.length;
  const isDrawn = (box) => everywhere('canvas', box).some((canvas) => canvas.width > 50);
  const drawn = () => boxes.filter(isDrawn).length;
  for (let i = 0; i < 100 && drawn() < plots; i++) await pause(100);
  const overflow = document.documentElement.scrollWidth - innerWidth;
  const found = { plots, drawn: drawn(), overflow };
  found.fetched = performance.getEntriesByType('resource').map((entry) => entry.name);
  try { Object.assign(found, await (async () => { STEPS })()); }
  catch (error) { problems.push(String(error)); }
  found.problems = problems;
  const output = document.createElement('pre');
  output.id = 'found';
  output.textContent = JSON.stringify(found);
  document.body.append(output);
}
main();
"""


def open_page(path: pathlib.Path, steps: str, *, width: int, height: int) -> dict[str, Any]:
  """Opens a page of `document.render` without a network, and returns what was found.

  Args:
    path: of the page; a copy with scripts of the test is written beside it.
    steps: JavaScript that returns an object, run when all plots are drawn.
    width: of the window, pixels.
    height: of the window.

  Returns:
    What `steps` returns; and the numbers of `plots` in the page and of those `drawn`, how far
    the page is wider than the window (`overflow`), the addresses that were `fetched`, and the
    `problems`: errors, warnings and what the page's policy refused.
  """
  if _CHROMIUM is None:
    pytest.skip('needs chromium')
  scripts = [_COLLECT, _REPORT.replace('STEPS', steps)]
  digests = [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts]
  allowed = ' '.join(f"'sha256-{digest}'" for digest in digests)
  text = path.read_text(encoding='utf-8').replace('script-src', f'script-src {allowed}', 1)
  first, last = (f'<script>{script}</script>' for script in scripts)
  text = text.replace('</title>', f'</title>{first}', 1).replace('</body>', f'{last}</body>')
  copy = path.with_suffix('.tested.html')
  copy.write_text(text, encoding='utf-8')
  profile = path.parent / 'chromium'
  done = subprocess.run(
    [
      _CHROMIUM,
      '--headless',
      '--no-sandbox',
      '--disable-gpu',
      '--host-resolver-rules=MAP * ~NOTFOUND',
      f'--user-data-dir={profile}',
      f'--window-size={width},{height}',
      '--virtual-time-budget=20000',
      '--dump-dom',
      copy.as_uri(),
    ],
    capture_output=True,
    text=True,
    timeout=120,
    check=True,
  )
  shutil.rmtree(profile, ignore_errors=True)
  match = re.search('<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
  assert match, f'the page did not get to its end: {done.stderr[-2000:]}'
  return json.loads(html.unescape(match[1]))
