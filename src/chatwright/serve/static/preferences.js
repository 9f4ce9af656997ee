// The dialog of a conversation's settings: model, system prompt, how tokens are chosen; and how the page looks.

const $ = (id) => document.getElementById(id);
const NUMBERS = ["temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_tokens", "seed"];

/** Opens with what is set, and calls `save({system, settings})` when the person is done. */
export class Preferences {
  constructor({ save }) {
    this.save = save;
    $("preferences").addEventListener("submit", (event) => {
      if (event.submitter?.value === "cancel") return;
      event.preventDefault();
      this.submit();
    });
    $("use-default").addEventListener("click", () => {
      for (const name of NUMBERS) $(`set-${name}`).value = "";
    });
    $("set-theme").addEventListener("change", () => globalThis.chatwrightTheme.set($("set-theme").value));
  }

  /** What a server offers: its models and its own settings, shown where nothing is set. */
  offer({ models, sampling }) {
    $("set-model").replaceChildren(...models.map((name) => new Option(name, name)));
    $("model-field").hidden = models.length < 2;
    for (const name of NUMBERS) if (name in sampling) $(`set-${name}`).placeholder = sampling[name];
  }

  show({ system, settings }, model) {
    $("set-system").value = system;
    $("set-model").value = settings.model ?? model;
    for (const name of NUMBERS) $(`set-${name}`).value = settings[name] ?? "";
    $("set-theme").value = globalThis.chatwrightTheme.get();
    $("settings-trouble").textContent = "";
    $("settings").showModal();
  }

  async submit() {
    const settings = {};
    if (!$("model-field").hidden) settings.model = $("set-model").value;
    for (const name of NUMBERS) {
      const field = $(`set-${name}`);
      if (field.value !== "") settings[name] = field.valueAsNumber;
    }
    try {
      await this.save({ system: $("set-system").value, settings });
      $("settings").close();
    } catch (failure) {
      $("settings-trouble").textContent = failure.message;
    }
  }
}
