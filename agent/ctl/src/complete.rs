//! What may come next on a command line, for kubectl: it completes its plugins' command lines by running
//! `kubectl_complete-PLUGIN` with the words so far.

use std::fmt::Write;

use crate::grammar::{self, CLUSTER, Command, GENERAL, HELP, OBJECTS, Object, Value};

/// Cobra's directive (`ShellCompDirective`) to complete nothing but what is listed.
const NO_FILES: u8 = 4;
/// The one to complete files.
const FILES: u8 = 0;

/// What kubectl reads: a line for each word that may come, with what it means after a tab, then a directive. The last of
/// `words` is what is typed of it so far.
pub fn complete(words: &[String]) -> String {
    let (typed, before) = words.split_last().map_or(("", words), |(last, before)| (last.as_str(), before));
    let next = next(before, typed);
    let mut text = String::new();
    for (word, about) in next.words.iter().filter(|(word, _)| word.starts_with(typed)) {
        let _ = writeln!(text, "{word}\t{about}");
    }
    let _ = writeln!(text, ":{}", if next.files { FILES } else { NO_FILES });
    text
}

/// What may come next.
#[derive(Default)]
struct Next {
    words: Vec<(String, &'static str)>,
    files: bool,
}

fn next(before: &[String], typed: &str) -> Next {
    let mut place = Place::default();
    for word in before {
        place.pass(word);
    }
    if let Some(value) = place.expected {
        return value_of(value);
    }
    let command = place.command;
    if typed.starts_with('-') {
        let own = command.map_or(&[][..], |command| command.options);
        let options = own.iter().chain(GENERAL).chain(CLUSTER);
        return Next {
            words: options.map(|option| (format!("--{}", option.long), option.about)).collect(),
            files: false,
        };
    }
    let named = |names: Vec<(&str, &'static str)>| {
        let words = names.into_iter().chain([(HELP, "help")]);
        Next { words: words.map(|(name, about)| (name.to_owned(), about)).collect(), files: false }
    };
    match (place.object, command) {
        (None, _) => named(OBJECTS.iter().map(|object| (object.name, object.about)).collect()),
        (Some(object), None) => named(object.commands.iter().map(|command| (command.name, command.about)).collect()),
        (Some(_), Some(Command { value: Some(value), .. })) if place.words == 0 => value_of(value),
        _ => Next::default(),
    }
}

fn value_of(value: &'static Value) -> Next {
    Next { words: value.among.iter().map(|word| ((*word).to_owned(), value.name)).collect(), files: value.path }
}

/// Where on the command line the words so far have led.
#[derive(Default)]
struct Place {
    object: Option<&'static Object>,
    command: Option<&'static Command>,
    /// The value of an option that has to come.
    expected: Option<&'static Value>,
    /// Words after the command.
    words: usize,
}

impl Place {
    fn pass(&mut self, word: &str) {
        if self.expected.take().is_some() {
            return;
        }
        if let Some(long) = word.strip_prefix("--") {
            let option = grammar::options().find(|option| option.long == long);
            self.expected = option.and_then(|option| option.value.as_ref());
            return;
        }
        if let Some(short) = word.strip_prefix('-') {
            // Of several letters in one word, what follows the last one may be its value: then nothing has to come.
            let option = grammar::options().find(|option| option.short.is_some_and(|letter| short.ends_with(letter)));
            self.expected = option.and_then(|option| option.value.as_ref());
            return;
        }
        match (self.object, self.command) {
            (None, _) => {
                self.object = begun(OBJECTS.iter().filter(|object| object.abbreviated || object.name == word), word);
                self.command = self.object.and_then(|object| object.commands.first()).filter(|one| one.name.is_empty());
            }
            (Some(object), None) => self.command = begun(object.commands.iter(), word),
            _ => self.words += 1,
        }
    }
}

/// What has a name.
trait Named {
    fn name(&self) -> &'static str;
}

impl Named for Object {
    fn name(&self) -> &'static str {
        self.name
    }
}

impl Named for Command {
    fn name(&self) -> &'static str {
        self.name
    }
}

/// The one that is meant by a word that may be short for it.
fn begun<T: Named>(all: impl Iterator<Item = &'static T>, word: &str) -> Option<&'static T> {
    let begun: Vec<&T> = all.filter(|one| one.name().starts_with(word)).collect();
    match begun[..] {
        [one] => Some(one),
        _ => begun.into_iter().find(|one| one.name() == word),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The words that may come, and the directive.
    fn completed(line: &str) -> (Vec<String>, String) {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let text = complete(&words);
        let (words, directive) = text.trim_end().rsplit_once('\n').unwrap_or(("", text.trim_end()));
        let words = words.lines().filter_map(|line| line.split('\t').next()).map(str::to_owned).collect();
        (words, directive.to_owned())
    }

    #[test]
    fn each_word_says_what_may_follow() {
        for (line, words, directive) in [
            (
                "",
                &[
                    "pod",
                    "redirect",
                    "prog",
                    "map",
                    "event",
                    "status",
                    "xds",
                    "proxy",
                    "uninstall",
                    "version",
                    "completion",
                    "man",
                    "help",
                ][..],
                ":4",
            ),
            ("p", &["pod", "prog", "proxy"], ":4"),
            ("-n demo red", &["redirect"], ":4"),
            ("redirect ", &["list", "show", "help"], ":4"),
            ("r s", &["show"], ":4"),
            ("redirect show web --from ", &["pod", "node", "host-pod"], ":4"),
            ("redirect show web --pro", &["--protocol"], ":4"),
            ("redirect list --pro", &[], ":4"),
            ("map dump E", &["ENROLLED", "EXCLUDED_CIDRS"], ":4"),
            ("map dump ENROLLED ", &[], ":4"),
            ("completion ", &["bash", "zsh", "fish"], ":4"),
            ("pod list --kubeconfig ", &[], ":0"),
            ("man ", &[], ":0"),
            ("pod list -jn ", &[], ":4"),
            ("event trace --ver", &["--verdict", "--version"], ":4"),
        ] {
            let words = words.iter().map(|word| (*word).to_owned()).collect();
            assert_eq!(completed(line), (words, directive.to_owned()), "{line}");
        }
    }
}
