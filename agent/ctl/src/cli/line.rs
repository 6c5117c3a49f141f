//! The words and options of a command line, taken off as they are understood.

use std::{collections::VecDeque, time::Duration};

use super::UsageError;
use crate::grammar::{self, Command, Object, Opt};

/// The arguments, taken off as they are understood.
pub(super) struct Line {
    pub(super) topic: Option<&'static Object>,
    pub(super) words: VecDeque<String>,
    pub(super) options: Vec<(&'static str, String)>,
}

impl Line {
    pub(super) fn split(arguments: impl IntoIterator<Item = String>) -> Result<Self, UsageError> {
        let mut line = Self { topic: None, words: VecDeque::new(), options: Vec::new() };
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            if argument == "--" {
                line.words.extend(arguments);
                break;
            }
            if let Some(long) = argument.strip_prefix("--") {
                let (name, value) = long.split_once('=').map_or((long, None), |(name, value)| (name, Some(value)));
                let option = grammar::options().find(|option| option.long == name);
                let option = option.ok_or_else(|| line.error(format!("unknown option --{name}")))?;
                line.option(option, &format!("--{name}"), value.map(str::to_owned), &mut arguments)?;
            } else if let Some(shorts) = argument.strip_prefix('-').filter(|shorts| !shorts.is_empty()) {
                for (at, short) in shorts.char_indices() {
                    let option = grammar::options().find(|option| option.short == Some(short));
                    let option = option.ok_or_else(|| line.error(format!("unknown option -{short}")))?;
                    let rest = &shorts[at + short.len_utf8()..];
                    let value = (option.value.is_some() && !rest.is_empty()).then(|| rest.to_owned());
                    line.option(option, &format!("-{short}"), value, &mut arguments)?;
                    if option.value.is_some() {
                        break;
                    }
                }
            } else {
                line.words.push_back(argument);
            }
        }
        Ok(line)
    }

    pub(super) fn option(
        &mut self,
        option: &'static Opt,
        written: &str,
        value: Option<String>,
        rest: &mut impl Iterator<Item = String>,
    ) -> Result<(), UsageError> {
        let value = match (&option.value, value) {
            (None, None) => String::new(),
            (None, Some(value)) => return Err(self.error(format!("{written} takes no value, got {value:?}"))),
            (Some(_), Some(value)) => value,
            (Some(takes), None) => {
                rest.next().ok_or_else(|| self.error(format!("{written}: expected {} after it", takes.expected)))?
            }
        };
        if option.value.is_some() && self.has(option.long) {
            return Err(self.error(format!("{written} is given twice")));
        }
        self.options.push((option.long, value));
        Ok(())
    }

    pub(super) fn error(&self, message: String) -> UsageError {
        UsageError { message, topic: self.topic }
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.options.iter().any(|(given, _)| *given == name)
    }

    pub(super) fn flag(&mut self, name: &str) -> bool {
        let before = self.options.len();
        self.options.retain(|(given, _)| *given != name);
        self.options.len() < before
    }

    pub(super) fn value(&mut self, name: &str) -> Option<String> {
        let at = self.options.iter().position(|(given, _)| *given == name)?;
        Some(self.options.remove(at).1)
    }

    pub(super) fn duration(&mut self, name: &str) -> Result<Option<Duration>, UsageError> {
        let Some(text) = self.value(name) else { return Ok(None) };
        match humantime::parse_duration(&text) {
            Ok(duration) if !duration.is_zero() => Ok(Some(duration)),
            _ => Err(self.error(format!("--{name}: {text:?}: expected a duration like 500ms, 10s or 1m"))),
        }
    }

    pub(super) fn word(&mut self) -> Option<String> {
        self.words.pop_front()
    }

    /// Nothing may be left over.
    pub(super) fn finish(mut self) -> Result<(), UsageError> {
        if let Some(word) = self.word() {
            return Err(self.error(format!("unexpected argument {word:?}")));
        }
        match self.options.first() {
            Some((name, _)) => Err(self.error(format!("--{name} means nothing here"))),
            None => Ok(()),
        }
    }

    /// The word that a command needs.
    pub(super) fn required(&mut self, command: &Command, written: &str) -> Result<String, UsageError> {
        let expected = command.value.as_ref().map_or("nothing", |value| value.expected);
        self.word().ok_or_else(|| self.error(format!("{written}: expected {expected}")))
    }
}
