// Making and changing nodes. Text is set as text, never as markup.

export const $ = (id) => document.getElementById(id);

/** Set text only when it changes: a screen reader and a selection stay where they are. */
export function put(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function cell(tag, text, kind) {
  const node = document.createElement(tag);
  if (kind) node.className = kind;
  node.textContent = text;
  return node;
}

export function build(tag, kind, children) {
  const node = cell(tag, "", kind);
  node.append(...children);
  return node;
}

export function rowHeading(text) {
  const node = cell("th", text, "");
  node.scope = "row";
  return node;
}

export function element(name, attributes, children = []) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

export function text(x, y, content, kind) {
  const node = element("text", { class: kind, x: x.toFixed(1), y: y.toFixed(1) });
  node.textContent = content;
  return node;
}
