// Light, dark, or as the reader's system says; read before the first paint, so that nothing flashes.

(() => {
  const KEY = "chatwright.theme.1";
  const known = ["light", "dark"];
  const apply = (theme) => {
    if (known.includes(theme)) document.documentElement.dataset.theme = theme;
    else delete document.documentElement.dataset.theme;
  };
  const read = () => {
    try {
      return localStorage.getItem(KEY);
    } catch {
      return null;
    }
  };
  apply(read());
  globalThis.chatwrightTheme = {
    get: () => document.documentElement.dataset.theme ?? "system",
    set: (theme) => {
      apply(theme);
      try {
        localStorage.setItem(KEY, theme);
      } catch {
        // A browser that keeps nothing shows it until the page is left.
      }
    },
  };
})();
