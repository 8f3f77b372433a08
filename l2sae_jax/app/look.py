"""Colours, fonts and sizes of the page; nothing of it is loaded from elsewhere."""

import gradio as gr

from l2sae_jax.regions import REGIONS

_ACCENT, _ACCENT_PRESSED = "#2f5d8a", "#244a6e"


def theme() -> gr.themes.Base:
    """Gradio's plainest theme, in the fonts that the visitor's computer has."""
    return gr.themes.Base(
        primary_hue="blue",
        neutral_hue="stone",
        radius_size="lg",
        font=("system-ui", "sans-serif"),
        font_mono=("ui-monospace", "monospace"),
    ).set(
        body_background_fill="#f6f5f2",
        block_border_width="0px",
        button_primary_background_fill=_ACCENT,
        button_primary_background_fill_dark=_ACCENT,
        button_primary_background_fill_hover=_ACCENT_PRESSED,
        button_primary_background_fill_hover_dark=_ACCENT_PRESSED,
        button_secondary_background_fill="#e4e2dc",
        checkbox_background_color_selected=_ACCENT,
        checkbox_border_color_selected=_ACCENT,
        color_accent=_ACCENT,
        slider_color=_ACCENT,
    )


def css() -> str:
    """The page's style sheet."""
    return _CSS + "".join(
        f"#regions label:nth-child({i}) {{ --region: rgb{region.colour}; }}\n"
        for i, region in enumerate(REGIONS, start=1)
    )


_CSS = """
.main.fillable { padding: 0 !important; width: 100%; max-width: 1180px !important; }
main { padding: 1rem 1.2rem !important; width: 100%; }
footer { display: none !important; }
#left, #right { gap: 0.8rem; }
#left > .block, #right > .block, #right .form { background: transparent; }
#right .form { gap: 0.8rem; overflow: visible; }
#right .form > .block { border-radius: 12px !important; }
.html-container { padding: 0 !important; }

#title h1 { font-size: 1.5rem; font-weight: 650; margin: 0; }
#title p, #samples::before { opacity: 0.75; }
#title p { margin: 0.15rem 0 0; }
#status p { margin: 0; padding: 0.55rem 0.9rem; border-radius: 10px; background: #2f5d8a1c; }
#status p.failed { background: #c0401c26; font-weight: 550; }

#drop { min-height: 360px; border: 2px dashed var(--border-color-primary); border-radius: 14px; }
#drop button { min-height: 350px; }
#drop .wrap, #reference .wrap { font-size: 0; }
#drop .wrap .or, #reference .wrap .or { display: none; }
#drop .wrap::after, #reference .wrap::after {
  content: "Drop a photograph here, or press to choose one";
  font-size: 1rem; padding: 0.4rem; text-align: center;
}
#reference { border: 2px dashed var(--border-color-primary); border-radius: 14px; }

#found img { max-height: 66vh; max-width: 100%; width: auto; margin: 0 auto; display: block; }
#close_up img { max-height: 264px; width: auto; margin: 0 auto; display: block; }
#reference_face img { border-radius: 10px; }
#found img, #close_up img { cursor: pointer; border-radius: 10px; }

#compared img { background: transparent !important; }

#right .form .wrap { gap: 0.35rem; }
#right .wrap label:has([type="radio"], [type="checkbox"]) {
  padding: 0.3rem 0.55rem 0.3rem 0.35rem; border-radius: 999px; cursor: pointer;
  border: 2px solid transparent; background: var(--background-fill-secondary);
}
#right .wrap label:has([type="radio"]:checked) { border-color: var(--color-accent) !important; }
#regions label:has(:checked) { border-color: var(--region) !important; }
#regions label:has(:focus-visible) { outline: 2px solid var(--color-accent); }
#regions input {
  background: var(--region) !important; border: 0; border-radius: 50%; opacity: 0.55;
  background-image: none; box-shadow: none;
}
#regions input:checked {
  background-image: var(--checkbox-check) !important; opacity: 1;
}

.results { display: flex; gap: 0.6rem; }
.results a {
  flex: 1; padding: 0.6rem 1rem; border-radius: 10px; text-align: center; text-decoration: none;
  background: var(--button-primary-background-fill); color: white; white-space: nowrap;
}
.results a.plain {
  background: var(--button-secondary-background-fill); color: var(--button-secondary-text-color);
}
.results a:not([href]) { opacity: 0.4; cursor: not-allowed; }

#samples::before { content: "Or try an example"; display: block; margin: 0.3rem 0; }
#samples, #samples .grid-wrap { min-height: 0 !important; height: auto !important; }
#samples .grid-wrap { padding: 0; overflow: visible; }
#samples .grid-container { grid-template-columns: repeat(auto-fill, 76px) !important; }
#samples .thumbnail-item { height: 76px; width: 76px; }

@media (max-width: 720px) {
  #studio { flex-direction: column; }
  #left, #right { display: contents; }
  #close_up img { max-height: 300px; }
  #regions label { padding-right: 0.4rem; }
  #studio:has(#replace) :is(#results, #replace, #samples) { order: 1; }
}
"""
