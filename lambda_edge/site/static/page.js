'use strict';

const EVERY_MS = 3000;
const LIMIT = 25;

const time = ms => new Date(ms).toISOString().slice(0, 16).replace('T', ' ');
const short = value => typeof value === 'number' ? String(Math.round(value * 1000) / 1000) : '';

function row(cells) {
  const tr = document.createElement('tr');
  for (const [value, name] of cells) {
    const td = document.createElement('td');
    td.textContent = value;
    if (name) td.className = name;
    tr.append(td);
  }
  return tr;
}

function show(id, items, cells, columns) {
  const rows = items.map(item => row(cells(item)));
  if (rows.length === 0) {
    const none = row([['none yet', 'empty']]);
    none.firstChild.colSpan = columns;
    rows.push(none);
  }
  document.getElementById(id).replaceChildren(...rows);
}

async function load(path) {
  const answer = await fetch(path);
  if (!answer.ok) throw new Error(`${path} answered ${answer.status}`);
  return { items: (await answer.json()).items, cache: answer.headers.get('x-cache') || '' };
}

async function refresh() {
  const state = document.getElementById('state');
  try {
    const [alerts, windows] = await Promise.all([load(`/api/alerts?limit=${LIMIT}`), load(`/api/windows?limit=${LIMIT}`)]);
    show('alerts', alerts.items, a => [[time(a.ts)], [a.device], [a.rule], [a.state, a.state],
      [short(a.value), 'number'], [short(a.threshold), 'number']], 6);
    show('windows', windows.items, w => [[time(w.window_start)], [w.device], [`${w.quantity} ${w.unit}`],
      [w.count, 'number'], [short(w.mean), 'number'], [short(w.min), 'number'], [short(w.max), 'number'],
      [short(w.p95), 'number']], 8);
    state.textContent = `${time(Date.now())} · ${windows.cache}`;
  } catch (error) {
    state.textContent = error.message;
  }
  setTimeout(refresh, EVERY_MS);
}

refresh();
