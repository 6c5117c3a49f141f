//! The same as text, in a page.

pub(super) fn render(text: &str) -> String {
    let escaped = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    format!(
        "<!DOCTYPE html>\n<html lang='en'>\n<head>\n  <title>weir statistics</title>\n</head>\n<body>\n<pre>\n{escaped}</pre>\n</body>\n</html>\n"
    )
}
