//! Path templates: `/users/{id}/{rest=**}`, as Envoy's URI templates.

use crate::matcher::{Regex, RegexRewrite, Substitution};

/// What a `*` stands for: one or more characters of a path segment.
const SEGMENT: &str = "[a-zA-Z0-9\\-._~%!$&'()+,;:@=]+";
/// What a `**` stands for: any characters of a path.
const REST: &str = "[a-zA-Z0-9\\-._~%!$&'()+,;:@=/]*";

/// How many variables a template may have, as in Envoy, and how long their names may be.
const MOST_VARIABLES: usize = 5;
const LONGEST_NAME: usize = 16;

/// A template that paths match as a whole.
#[derive(Clone, Debug)]
pub struct PathTemplate {
    pattern: String,
    regex: Regex,
    variables: Vec<String>,
}

impl PathTemplate {
    /// Parses a template: it begins with a slash; `*`, `**` and `{name}` or `{name=pattern}` stand for whole segments,
    /// in the last one for what is before a literal, and only literals follow a `**`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let body = text.strip_prefix('/').ok_or_else(|| format!("\"{text}\" must begin with a slash"))?;
        let (mut pattern, mut variables, mut ended) = (String::new(), Vec::<String>::new(), false);
        let mut segments = split(body)?.into_iter().peekable();
        while let Some(segment) = segments.next() {
            pattern.push('/');
            let (segment, suffix) = with_suffix(segment);
            let parts = if let Some(variable) = segment.strip_prefix('{').and_then(|inner| inner.strip_suffix('}')) {
                let (name, inner) = variable.split_once('=').unwrap_or((variable, "*"));
                let valid = name.starts_with(|c: char| c.is_ascii_alphabetic())
                    && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
                if !valid || variables.iter().any(|known| known == name) {
                    return Err(format!("\"{name}\" is not a name, or is there twice"));
                }
                if name.len() > LONGEST_NAME || variables.len() == MOST_VARIABLES {
                    return Err(format!(
                        "\"{text}\" may have {MOST_VARIABLES} variables, of at most {LONGEST_NAME} characters"
                    ));
                }
                variables.push(name.to_owned());
                inner
            } else {
                segment
            };
            pattern.push_str(if parts == segment { "" } else { "(" });
            for (index, part) in parts.split('/').enumerate() {
                if ended && part.starts_with('*') {
                    return Err(format!("only literals may follow ** in \"{text}\""));
                }
                ended |= part == "**";
                pattern.push_str(if index > 0 { "/" } else { "" });
                pattern.push_str(&segment_pattern(part)?);
            }
            pattern.push_str(if parts == segment { "" } else { ")" });
            if !suffix.is_empty() && segments.peek().is_some() {
                return Err(format!("nothing may follow \"{suffix}\" in \"{text}\""));
            }
            pattern.push_str(&segment_pattern(suffix)?);
        }
        let regex = Regex::new(&pattern)?;
        Ok(Self { pattern, regex, variables })
    }

    /// The regular expression that matches the same paths.
    pub fn to_regex(&self) -> Regex {
        self.regex.clone()
    }

    /// The rewrite to another template, which may use this one's variables.
    pub fn rewrite(&self, text: &str) -> Result<RegexRewrite, String> {
        if !text.starts_with('/') {
            return Err(format!("\"{text}\" must begin with a slash"));
        }
        let mut substitution = String::new();
        let mut rest = text;
        while let Some(open) = rest.find('{') {
            substitution.push_str(&rest[..open].replace('\\', "\\\\"));
            let close = rest[open..].find('}').ok_or_else(|| format!("\"{text}\" has a {{ without a }}"))? + open;
            let name = &rest[open + 1..close];
            let index = self.variables.iter().position(|known| known == name);
            let index = index.ok_or_else(|| format!("the path template has no variable \"{name}\""))? + 1;
            substitution.push_str(&format!("\\{index}"));
            rest = &rest[close + 1..];
        }
        substitution.push_str(&rest.replace('\\', "\\\\"));
        let pattern = Regex::search(&format!("^{}$", self.pattern))?;
        Ok(RegexRewrite { pattern, substitution: Substitution::parse(&substitution, self.variables.len())? })
    }
}

/// The segments; a slash within braces does not end one.
fn split(text: &str) -> Result<Vec<&str>, String> {
    let (mut segments, mut start, mut depth) = (Vec::new(), 0, 0_usize);
    for (index, byte) in text.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' => depth = depth.checked_sub(1).ok_or_else(|| format!("\"{text}\" has a }} without a {{"))?,
            b'/' if depth == 0 => {
                segments.push(&text[start..index]);
                start = index + 1;
            }
            _ => {}
        }
    }
    segments.push(&text[start..]);
    if depth > 0 { Err(format!("\"{text}\" has a {{ without a }}")) } else { Ok(segments) }
}

/// A segment's `*`, `**` or variable, and what follows it.
fn with_suffix(segment: &str) -> (&str, &str) {
    let length = match segment.as_bytes() {
        [b'*', b'*', ..] => 2,
        [b'*', ..] => 1,
        [b'{', ..] => segment.find('}').map_or(segment.len(), |end| end + 1),
        _ => segment.len(),
    };
    segment.split_at(length)
}

fn segment_pattern(segment: &str) -> Result<String, String> {
    match segment {
        "*" => Ok(SEGMENT.into()),
        "**" => Ok(REST.into()),
        literal if literal.contains(['*', '{', '}', '?', '#']) => Err(format!("\"{literal}\" is not a path segment")),
        literal => {
            Ok(literal.chars().map(|c| if c.is_ascii_alphanumeric() { c.into() } else { format!("\\{c}") }).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_few_and_their_names_short() {
        assert!(PathTemplate::parse("/{a}/{b}/{c}/{d}/{sixteen_are_fine}").is_ok());
        for refused in ["/{a}/{b}/{c}/{d}/{e}/{f}", "/{seventeen_are_not}"] {
            assert!(PathTemplate::parse(refused).unwrap_err().contains("may have 5 variables"), "{refused}");
        }
    }

    #[test]
    fn a_literal_follows_in_the_last_segment() {
        let template = PathTemplate::parse("/videos/*/{file}.m4s").unwrap();
        assert!(template.to_regex().is_match(b"/videos/a/b.m4s"));
        assert!(!template.to_regex().is_match(b"/videos/a/b.mp4"));
        assert_eq!(template.rewrite("/{file}").unwrap().apply(b"/videos/a/b.m4s"), b"/b");
        assert!(PathTemplate::parse("/{path=**}/end.m4s").unwrap().to_regex().is_match(b"/a/b/end.m4s"));
    }

    #[test]
    fn templates_match_and_rewrite() {
        let template = PathTemplate::parse("/users/{id}/*/{rest=**}").unwrap();
        assert!(template.to_regex().is_match(b"/users/7/x/a/b"));
        assert!(!template.to_regex().is_match(b"/users/7"));
        let rewrite = template.rewrite("/v2/{rest}/of/{id}").unwrap();
        assert_eq!(rewrite.apply(b"/users/7/x/a/b"), b"/v2/a/b/of/7");
        assert_eq!(template.rewrite("/{no}").unwrap_err(), "the path template has no variable \"no\"");
        for bad in ["users", "/a*b", "/{id", "/**/*", "/**/{x}", "/{a}/{a}", "/*.x/y", "/*{a}"] {
            assert!(PathTemplate::parse(bad).is_err(), "{bad}");
        }
    }
}
