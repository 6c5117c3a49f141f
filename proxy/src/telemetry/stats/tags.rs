//! Tags: parts of a name that say which object a metric is of, such as the cluster, taken out of the name for
//! Prometheus. By default those that Envoy takes out; `stats_config.stats_tags` adds to them.
//!
//! Nothing of this is on the data path: a name is looked at when somebody first asks for its tags.

mod well_known;

use std::collections::{HashMap, HashSet};

use regex_automata::{
    meta::Regex,
    util::{captures::Captures, syntax},
};

use super::{metric::Tagged, views};
use crate::view::ViewNames;

/// The tag that says of which view a metric is.
const VIEW: &str = "weir.view";

/// Largest compiled regular expression, bytes.
const REGEX_SIZE_LIMIT: usize = 1 << 20;

/// Why a tag specifier is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TagError {
    /// Its regular expression is not one.
    #[error("bad regular expression \"{pattern}\": {problem}")]
    Regex {
        /// What was given.
        pattern: String,
        /// What is wrong with it.
        problem: String,
    },
    /// It names no default to fall back on.
    #[error("no regex, and no default one for the tag \"{0}\"")]
    NoDefault(String),
}

/// Which tags are taken out of names.
#[derive(Debug, Default)]
pub struct TagRules {
    /// Tried on every name.
    anywhere: Vec<Extractor>,
    /// Tried on names whose first part is the key.
    by_prefix: HashMap<String, Vec<Extractor>>,
    /// Whose names are told apart.
    views: ViewNames,
}

#[derive(Debug)]
struct Extractor {
    tag: String,
    pattern: Pattern,
    /// Names without this are not tried.
    must: &'static str,
    /// Names that begin so are not tried.
    must_not: &'static str,
}

#[derive(Debug)]
enum Pattern {
    /// This value, whatever the name.
    Fixed(String),
    /// Parts between dots: `*` is any one, `**` one or more, `$` the one that is the tag's value.
    Parts(Vec<&'static str>),
    /// The first group is taken out; the second one, or else the first, is the tag's value.
    Regex(Regex),
    /// The same, of an expression that looks around.
    LookAround(fancy_regex::Regex),
}

/// What a pattern found: the bytes to take out of the name, and the value.
struct Found<'a> {
    out: (usize, usize),
    value: &'a str,
}

impl TagRules {
    /// Envoy's own, or none.
    pub fn new(defaults: bool) -> Self {
        let mut rules = Self::default();
        if defaults {
            for known in well_known::TAGS {
                rules.add_known(known);
            }
        }
        rules
    }

    /// A tag that every metric has.
    pub fn fix(&mut self, tag: &str, value: &str) {
        let pattern = Pattern::Fixed(value.to_owned());
        self.anywhere.push(Extractor { tag: tag.to_owned(), pattern, must: "", must_not: "" });
    }

    /// Names below those of a view are what they are in it, with one tag more.
    pub fn tell_apart(&mut self, views: ViewNames) {
        self.views = views;
    }

    /// A tag found by a regular expression; an empty one means the default of that name.
    pub fn extract(&mut self, tag: &str, pattern: &str) -> Result<(), TagError> {
        if !pattern.is_empty() {
            let compiled = match compile(pattern) {
                Ok(regex) => Pattern::Regex(regex),
                Err(problem) => match look_around(pattern) {
                    Some(regex) => Pattern::LookAround(regex),
                    None => return Err(TagError::Regex { pattern: pattern.to_owned(), problem }),
                },
            };
            let extractor = Extractor { tag: tag.to_owned(), pattern: compiled, must: "", must_not: "" };
            self.add(prefix_of(pattern), extractor);
            return Ok(());
        }
        let mut found = false;
        for known in well_known::TAGS.iter().filter(|known| known.tag == tag) {
            self.add_known(known);
            found = true;
        }
        if found { Ok(()) } else { Err(TagError::NoDefault(tag.to_owned())) }
    }

    fn add_known(&mut self, known: &well_known::Tag) {
        let (pattern, prefix) = match known.pattern {
            well_known::Pattern::Parts(parts) => {
                let parts: Vec<_> = parts.split('.').collect();
                let first = parts[0];
                (Pattern::Parts(parts), Some(first).filter(|part| !["$", "*", "**"].contains(part)))
            }
            well_known::Pattern::Regex(pattern) => match compile(&well_known::expand(pattern)) {
                Ok(regex) => (Pattern::Regex(regex), prefix_of(pattern)),
                // Every one of them is compiled in a test.
                Err(_) => return,
            },
        };
        let extractor = Extractor { tag: known.tag.to_owned(), pattern, must: known.must, must_not: known.must_not };
        self.add(prefix, extractor);
    }

    fn add(&mut self, prefix: Option<&str>, extractor: Extractor) {
        match prefix {
            Some(prefix) => self.by_prefix.entry(prefix.to_owned()).or_default().push(extractor),
            None => self.anywhere.push(extractor),
        }
    }

    /// Takes the tags out of a name. Every pattern sees the whole name; the first one to find a tag wins.
    pub fn apply(&self, name: &str) -> Tagged {
        let (view, name) = views::split(&self.views, name);
        let mut tags = Vec::new();
        let mut seen = HashSet::new();
        let mut out: Vec<(usize, usize)> = Vec::new();
        let first = name.split('.').next().unwrap_or_default();
        let by_prefix = self.by_prefix.get(first).into_iter().flatten();
        for extractor in self.anywhere.iter().chain(by_prefix) {
            let Some(found) = extractor.find(name) else { continue };
            if seen.insert(&extractor.tag) {
                tags.push((extractor.tag.clone(), found.value.to_owned()));
                out.push(found.out);
            }
        }
        out.sort_unstable();
        let mut rest = String::with_capacity(name.len());
        let mut at = 0;
        for (start, end) in out {
            rest.push_str(&name[at..start.max(at)]);
            at = at.max(end);
        }
        rest.push_str(&name[at..]);
        tags.extend(view.map(|view| (VIEW.to_owned(), view.to_owned())));
        Tagged { name: rest, tags }
    }
}

impl Extractor {
    fn find<'a>(&'a self, name: &'a str) -> Option<Found<'a>> {
        if !name.contains(self.must) || (!self.must_not.is_empty() && name.starts_with(self.must_not)) {
            return None;
        }
        match &self.pattern {
            Pattern::Fixed(value) => Some(Found { out: (0, 0), value }),
            Pattern::Parts(pattern) => find_part(pattern, name),
            Pattern::Regex(regex) => {
                let mut captures: Captures = regex.create_captures();
                regex.captures(name, &mut captures);
                let out = captures.get_group(1)?;
                let value = captures.get_group(2).unwrap_or(out);
                Some(Found { out: (out.start, out.end), value: &name[value.range()] })
            }
            Pattern::LookAround(regex) => {
                // One that takes too many steps has found nothing.
                let captures = regex.captures(name).ok()??;
                let out = captures.get(1)?;
                let value = captures.get(2).unwrap_or(out);
                Some(Found { out: (out.start(), out.end()), value: &name[value.range()] })
            }
        }
    }
}

/// The `$` part of a name that fits the pattern, to be taken out with one of its dots.
fn find_part<'a>(pattern: &[&str], name: &'a str) -> Option<Found<'a>> {
    let mut starts = Vec::new();
    let mut at = 0;
    let parts: Vec<&str> = name
        .split('.')
        .inspect(|part| {
            starts.push(at);
            at += part.len() + 1;
        })
        .collect();
    let index = fit(pattern, &parts, 0)??;
    let (start, end) = (starts[index], starts[index] + parts[index].len());
    // The dot after it, or at the end the one before.
    let out = if end < name.len() { (start, end + 1) } else { (start.saturating_sub(1), end) };
    Some(Found { out, value: &name[start..end] })
}

/// None: does not fit. Else the index of the part that `$` stands for.
fn fit(pattern: &[&str], parts: &[&str], at: usize) -> Option<Option<usize>> {
    let Some((first, rest)) = pattern.split_first() else { return parts.is_empty().then_some(None) };
    match *first {
        "**" => (1..=parts.len()).find_map(|taken| fit(rest, &parts[taken..], at + taken)),
        "$" => {
            let value = parts.first().filter(|part| !part.is_empty()).map(|_| at)?;
            fit(rest, &parts[1..], at + 1).map(|_| Some(value))
        }
        literal => {
            let part = parts.first()?;
            if literal != "*" && literal != *part {
                return None;
            }
            fit(rest, &parts[1..], at + 1)
        }
    }
}

fn compile(pattern: &str) -> Result<Regex, String> {
    Regex::builder()
        .configure(Regex::config().nfa_size_limit(Some(REGEX_SIZE_LIMIT)))
        .syntax(syntax::Config::new().unicode(false).utf8(false))
        .build(pattern)
        .map_err(|error| match error.syntax_error() {
            Some(syntax) => syntax.to_string().lines().last().unwrap_or("bad syntax").to_owned(),
            None => error.to_string(),
        })
}

/// An expression of std::regex, which Envoy takes here, that no automaton is made of.
fn look_around(pattern: &str) -> Option<fancy_regex::Regex> {
    fancy_regex::RegexBuilder::new(pattern).delegate_size_limit(REGEX_SIZE_LIMIT).build().ok()
}

/// The part of the name up to the first dot, if the pattern fixes it: `^cluster\.`.
fn prefix_of(pattern: &str) -> Option<&str> {
    let rest = pattern.strip_prefix('^')?;
    let length = rest.find(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_')?;
    let next = &rest[length..];
    (length > 0 && (next.starts_with("\\.") || next.starts_with("(?=\\."))).then_some(&rest[..length])
}

#[cfg(test)]
mod tests;
