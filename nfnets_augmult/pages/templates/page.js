'use strict';

// A sideways drag on a touch screen would zoom, and a page must scroll.
const isTouched = window.matchMedia('(pointer: coarse)').matches;

async function drawPlots() {
  for (const box of document.querySelectorAll('.plot')) {
    const item = JSON.parse(box.querySelector('script').textContent);
    if (isTouched) item.doc.roots[0].attributes.toolbar.attributes.active_drag = null;
    const { roots } = await Bokeh.embed.embed_item(item, box.querySelector('div'));
    plots.set(box, roots[0].model);
  }
}

// Bokeh shows values where a pointer moves, and hides them when a finger is lifted. The click that
// follows a tap comes after both. What is near the finger counts.
const plots = new Map();
const nearFinger = [[0, 0]];
for (let radius = 4; radius <= 16; radius += 4) {
  for (let angle = 0; angle < 2 * Math.PI; angle += Math.PI / 4) {
    nearFinger.push([radius * Math.cos(angle), radius * Math.sin(angle)]);
  }
}
let touched = null;

document.addEventListener('click', (event) => {
  if ((event.pointerType || (isTouched ? 'touch' : 'mouse')) !== 'touch') return;
  touched?.dispatchEvent(new PointerEvent('pointerout', { isPrimary: true }));
  const plot = plots.get(event.target.closest('.plot'));
  touched = plot ? event.composedPath()[0] : null;
  plot && nearFinger.some(([x, y]) => {
    const place = { clientX: event.clientX + x, clientY: event.clientY + y, view: window };
    touched.dispatchEvent(new PointerEvent('pointermove', { ...place, isPrimary: true }));
    return plot.renderers.some((drawn) => !drawn.data_source.inspected.is_empty());
  });
});

// Numbers by value before other text, and empty cells last.
function compare(a, b) {
  const [x, y] = [a, b].map((text) => (text ? Number(text.replace(/[,%]/g, '')) : NaN));
  const kinds = [[a, x], [b, y]].map(([text, number]) => (text ? (isNaN(number) ? 1 : 0) : 2));
  if (kinds[0] !== kinds[1]) return kinds[0] - kinds[1];
  return kinds[0] === 0 ? x - y : a.localeCompare(b, 'en', { numeric: true });
}

for (const table of document.querySelectorAll('table.sortable')) {
  const head = table.tHead.rows[0];
  const body = table.tBodies[0];
  head.addEventListener('click', (event) => {
    const cell = event.target.closest('th');
    const isDown = cell.getAttribute('aria-sort') === 'ascending';
    const rows = [...body.rows].map((row) => [row.cells[cell.cellIndex].textContent.trim(), row]);
    rows.sort(([a], [b]) => (a && b && isDown ? -1 : 1) * compare(a, b));
    for (const other of head.cells) other.removeAttribute('aria-sort');
    cell.setAttribute('aria-sort', isDown ? 'descending' : 'ascending');
    body.append(...rows.map(([, row]) => row));
  });
}

for (const field of document.querySelectorAll('input[type=search]')) {
  const table = document.getElementById(field.dataset.table);
  const rows = [...table.tBodies[0].rows];
  const count = field.parentElement.querySelector('output');
  const filter = () => {
    const words = field.value.toLowerCase().split(/\s+/);
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
    }
    count.textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length}`;
  };
  field.addEventListener('input', filter);
  filter();
}

drawPlots();
