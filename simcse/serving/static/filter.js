// A filter as the command line's --where writes it, with commas between: lang=en|de, year>=2000. Or JSON, as the API has it.

export class FilterError extends Error {}

const CONDITION = /^([^!<>=]+)(!=|<=|>=|=|<|>)(.*)$/s;

export function parseFilter(text) {
  if (text.trim().startsWith("{")) return parseJson(text);
  const where = Object.create(null); // so that any name may be a field's
  for (const part of split(text)) {
    const found = CONDITION.exec(part);
    if (!found) throw new FilterError(`Found “${part}”, expected FIELD=VALUE, FIELD=A|B, or one of != < <= > >=, with commas between.`);
    const [field, sign, value] = [found[1].trim(), found[2], found[3].trim()];
    const several = sign === "=";
    if (field in where && (several || Array.isArray(where[field]))) {
      throw new FilterError(`Found two conditions on “${field}”; write several values as ${field}=A|B.`);
    }
    where[field] = several ? value.split("|").map(parseValue) : { ...where[field], [sign]: parseValue(value) };
  }
  return where;
}

function parseJson(text) {
  try {
    return JSON.parse(text, checked);
  } catch (error) {
    if (error instanceof FilterError) throw error;
    throw new FilterError("Found broken JSON, expected such as {\"lang\": \"en\"}, or lang=en.");
  }
}

// commas in double quotes belong to a value
function split(text) {
  const parts = text.match(/(?:"(?:[^"\\]|\\.)*"|[^,])+/g) ?? [];
  return parts.map((part) => part.trim()).filter(Boolean);
}

// JSON where it can be (numbers, true, null, "text"), else text
function parseValue(text) {
  try {
    return JSON.parse(text, checked);
  } catch (error) {
    if (error instanceof FilterError) throw error;
    return text;
  }
}

function checked(name, value) {
  if (Number.isInteger(value) && !Number.isSafeInteger(value)) {
    throw new FilterError("Found a whole number beyond 2^53, which this page would round; the API takes it.");
  }
  return value;
}
