// The state of the page is its address: `#key=value&key=value`, values percent-encoded, defaults left out.
// An address without `=` is the id of a section.
const DEFAULTS = {
  view: "*", sort: "", dir: "", q: "", stage: "", told: "", origin: "", compare: "", base: "",
  x: "utility", y: "safety", cells: "safety", cols: "", detect: "", defense: "", scenario: "", at: "",
};
const data = JSON.parse(document.getElementById("data").textContent);
let state = { ...DEFAULTS };

const decoded = (text) => {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
};
const encoded = (text) => encodeURIComponent(text).replaceAll("%2B", "+").replaceAll("%2C", ",").replaceAll("%2A", "*");

// What an address says, without defaults.
function parse(address) {
  const text = address.replace(/^#/, "");
  if (!text.includes("=")) return text ? { at: decoded(text) } : {};
  const found = {};
  for (const part of text.split("&")) {
    const cut = part.indexOf("=");
    const key = part.slice(0, cut);
    if (cut > 0 && Object.hasOwn(DEFAULTS, key)) found[key] = decoded(part.slice(cut + 1));
  }
  return found;
}

function address() {
  const parts = Object.keys(DEFAULTS)
    .filter((key) => state[key] !== DEFAULTS[key])
    .map((key) => `${key}=${encoded(state[key])}`);
  if (parts.length === 1 && state.at) return `#${encodeURIComponent(state.at)}`;
  return `#${parts.join("&")}`;
}

// A comma inside an id of a list is written as %2C, so that it is not taken for the next one.
const listed = (text) => text.split(",").filter(Boolean).map(decoded);
const unlisted = (ids) => ids.map((id) => id.replaceAll("%", "%25").replaceAll(",", "%2C")).join(",");

const defenseIndex = new Map(data.defenses.map((defense, index) => [defense.id, index]));
const scenarioIndex = new Map(data.scenarios.map((scenario, index) => [scenario.id, index]));

function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null));
  return node;
}

function defenseLink(index) {
  const { id, title } = data.defenses[index];
  return el("a", { href: `#defense=${encoded(id)}` }, el("bdi", {}, title));
}

function scenarioLink(index) {
  const { id, title } = data.scenarios[index];
  return el("a", { href: `#scenario=${encoded(id)}` }, el("bdi", {}, title));
}
