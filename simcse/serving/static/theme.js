// Light, dark, or what the system says; the choice is kept.

const ORDER = ["auto", "light", "dark"];

export function startTheme(button, changed) {
  let theme = ORDER.includes(localStorage.getItem("simcse-theme")) ? localStorage.getItem("simcse-theme") : "auto";
  const apply = () => {
    document.documentElement.style.colorScheme = theme === "auto" ? "light dark" : theme;
    button.textContent = `Theme: ${theme}`;
    changed();
  };
  button.addEventListener("click", () => {
    theme = ORDER[(ORDER.indexOf(theme) + 1) % ORDER.length];
    localStorage.setItem("simcse-theme", theme);
    apply();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", changed);
  apply();
}

export function isDark() {
  const chosen = document.documentElement.style.colorScheme;
  return chosen === "light dark" ? matchMedia("(prefers-color-scheme: dark)").matches : chosen === "dark";
}

// the colour that a variable has now: canvas cannot read light-dark()
export function colour(name) {
  const probe = document.createElement("i");
  probe.style.color = `var(--${name})`;
  document.body.append(probe);
  const value = getComputedStyle(probe).color;
  probe.remove();
  return value;
}
