//! Pages for people: one HTML file that needs nothing else, light or dark as the reader has it, its plots drawn in it.

use std::fmt::Write as _;

/// Width of a whole plot, in the units of its picture.
pub(crate) const WIDE: f64 = 900.0;

const STYLE: &str = "\
body{font:15px/1.45 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}\
h1{margin-bottom:0}h2{margin-top:2.2rem;font-size:1.15rem}.where{color:#666;margin:0}\
svg{width:100%;height:auto;display:block}svg text{font:12px system-ui,sans-serif;fill:currentColor}line{stroke:#ccc}\
table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.2rem .6rem .2rem 0;border-bottom:1px solid #eee;vertical-align:top}\
td.n,th.n{text-align:right;white-space:nowrap}";

const DARK: &str = "body{color:#ddd;background:#181a1b}td,th{border-color:#333}line{stroke:#444}.where{color:#999}";

/// The head of a page up to its body's beginning. `style` and `dark` come on top of what all pages have.
pub(crate) fn begin(title: &str, style: &str, dark: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\n\
         <title>{}</title>\n<style>{STYLE}{style}@media(prefers-color-scheme:dark){{{DARK}{dark}}}</style></head><body>\n",
        escaped(title)
    )
}

pub(crate) fn end(page: &mut String) {
    page.push_str("</body></html>\n");
}

/// A picture of the given size, which fills the width that it is given.
pub(crate) fn picture(
    page: &mut String,
    (width, height): (f64, f64),
    draw: impl FnOnce(&mut String),
) {
    let _ = write!(page, "<svg viewBox=\"0 0 {width} {height}\" role=\"img\">");
    draw(page);
    page.push_str("</svg>\n");
}

/// A bar at left, top, of a width and a height; `title` is what is shown over it.
pub(crate) fn bar(
    page: &mut String,
    (x, y, width, height): (f64, f64, f64, f64),
    class: &str,
    title: &str,
) {
    if width <= 0.0 {
        return;
    }
    let _ = write!(
        page,
        "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\"><title>{}</title></rect>",
        escaped(title)
    );
}

/// For text and attributes of XML and HTML. Control characters, which XML 1.0 does not have at all, become spaces.
pub(crate) fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\n' => escaped.push_str("&#10;"),
            control if control.is_control() || matches!(control, '\u{fffe}' | '\u{ffff}') => {
                escaped.push(' ');
            }
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
pub(crate) fn assert_self_contained(page: &str) {
    for elsewhere in ["http:", "https:", "src=", "<script", "@import", "<link"] {
        assert!(!page.contains(elsewhere), "{elsewhere}");
    }
    for element in ["svg", "table", "figure", "text", "tr", "td"] {
        let opened = page.matches(&format!("<{element} ")).count()
            + page.matches(&format!("<{element}>")).count();
        let closed = page.matches(&format!("</{element}>")).count();
        assert_eq!(opened, closed, "<{element}>");
    }
    assert!(page.ends_with("</body></html>\n"));
}
