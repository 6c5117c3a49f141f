//! RE2's regular expressions as Envoy has them: in Latin-1, every byte is a character. The dialect of `regex-syntax`
//! differs, so patterns are parsed here, as RE2 parses them in its Perl mode, and its expressions built from that.
//!
//! <https://github.com/google/re2/wiki/Syntax>

mod bytes;

use regex_syntax::hir::{Capture, Hir, Look, Repetition};

use self::bytes::{ByteSet, posix_set, unicode_set};

/// How often RE2 lets something be repeated, counted repetitions within each other multiplied.
const MOST_REPETITIONS: u32 = 1000;

/// How deep groups and repetitions may be within each other: what comes after parsing is recursive.
const MOST_NESTED: usize = 200;

/// How many digits a count can have.
const LONGEST_COUNT: usize = 9;

const TOO_DEEP: &str = "expression nests too deeply";

/// Parses a pattern. Errors are RE2's messages.
pub fn parse(pattern: &str) -> Result<Hir, String> {
    let mut parser = Parser { pattern: pattern.as_bytes(), ..Parser::default() };
    while let Some(byte) = parser.next() {
        parser.item(byte)?;
    }
    if parser.outer.is_empty() { Ok(parser.group.into_hir()) } else { Err(format!("missing ): {pattern}")) }
}

/// What `(?imsU)` sets.
#[derive(Clone, Copy, Default)]
struct Flags {
    fold: bool,
    lines: bool,
    dot_newline: bool,
    lazy: bool,
}

/// A group of which the end is not reached, or the whole pattern.
#[derive(Default)]
struct Group {
    /// Its number, if it captures.
    capture: Option<u32>,
    /// The flags around it.
    flags: Flags,
    /// Its alternatives before the current one.
    branches: Vec<Hir>,
    /// The current alternative.
    parts: Vec<(Hir, Extent)>,
    /// The most of all that is in it.
    extent: Extent,
}

/// What is limited of an expression.
#[derive(Clone, Copy)]
struct Extent {
    /// How many groups and repetitions are within each other.
    height: usize,
    /// How often counted repetitions within each other repeat.
    repetitions: u32,
}

impl Default for Extent {
    fn default() -> Self {
        Self { height: 0, repetitions: 1 }
    }
}

impl Extent {
    fn or(self, other: Self) -> Self {
        Self { height: self.height.max(other.height), repetitions: self.repetitions.max(other.repetitions) }
    }

    /// Of what has this within it.
    fn around(self, levels: usize) -> Result<Self, String> {
        let height = self.height + levels;
        if height > MOST_NESTED { Err(TOO_DEEP.to_owned()) } else { Ok(Self { height, ..self }) }
    }
}

impl Group {
    fn end_branch(&mut self) {
        let parts = std::mem::take(&mut self.parts).into_iter().map(|(part, _)| part);
        self.branches.push(Hir::concat(parts.collect()));
    }

    fn into_hir(mut self) -> Hir {
        self.end_branch();
        let sub = Hir::alternation(self.branches);
        match self.capture {
            Some(index) => Hir::capture(Capture { index, name: None, sub: Box::new(sub) }),
            None => sub,
        }
    }
}

#[derive(Default)]
struct Parser<'a> {
    pattern: &'a [u8],
    at: usize,
    flags: Flags,
    /// The innermost open group.
    group: Group,
    /// Those around it, outermost first.
    outer: Vec<Group>,
    captures: u32,
    /// Where the repetition operator begins that has just ended.
    repeated: Option<usize>,
    /// From here on there is no `:]`: it is looked for once.
    no_set_ends: bool,
}

impl Parser<'_> {
    fn rest(&self) -> &[u8] {
        &self.pattern[self.at..]
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.rest().first().copied()?;
        self.at += 1;
        Some(byte)
    }

    fn eat(&mut self, byte: u8) -> bool {
        let there = self.rest().first() == Some(&byte);
        self.at += usize::from(there);
        there
    }

    /// What is wrong with the pattern between `start` and here.
    fn error(&self, problem: &str, start: usize) -> String {
        format!("{problem}: {}", latin1(&self.pattern[start..self.at]))
    }

    fn push(&mut self, part: Hir) {
        self.push_of(part, Extent::default());
    }

    fn push_of(&mut self, part: Hir, extent: Extent) {
        self.group.extent = self.group.extent.or(extent);
        self.group.parts.push((part, extent));
    }

    fn literal(&mut self, byte: u8) {
        let set = ByteSet::of(&[byte, byte]);
        self.push(if self.flags.fold { set.folded() } else { set }.into_hir());
    }

    fn item(&mut self, byte: u8) -> Result<(), String> {
        let start = self.at - 1;
        let repeated = self.repeated.take();
        match byte {
            b'(' => self.open(start)?,
            b')' => self.close()?,
            b'|' => self.group.end_branch(),
            b'^' => self.push(Hir::look(if self.flags.lines { Look::StartLF } else { Look::Start })),
            b'$' => self.push(Hir::look(if self.flags.lines { Look::EndLF } else { Look::End })),
            b'.' if self.flags.dot_newline => self.push(ByteSet::all().into_hir()),
            b'.' => self.push(ByteSet::of(b"\n\n").negated().into_hir()),
            b'[' => self.class(start)?,
            b'*' => self.repeat(start, repeated, (0, None))?,
            b'+' => self.repeat(start, repeated, (1, None))?,
            b'?' => self.repeat(start, repeated, (0, Some(1)))?,
            b'{' => match self.counts() {
                Some(counts) => self.repeat(start, repeated, counts)?,
                None => self.literal(byte),
            },
            b'\\' => self.escape(start)?,
            byte => self.literal(byte),
        }
        Ok(())
    }

    fn open(&mut self, start: usize) -> Result<(), String> {
        if !self.eat(b'?') {
            return self.open_capture();
        }
        match self.rest() {
            [b'<', b'=' | b'!', _, ..] => {
                self.at += 2;
                Err(self.error("invalid perl operator", start))
            }
            [b'P', b'<', _, ..] => self.open_named(start, start + 4),
            [b'<', _, ..] => self.open_named(start, start + 3),
            _ => self.set_flags(start),
        }
    }

    fn open_group(&mut self, capture: Option<u32>) -> Result<(), String> {
        if self.outer.len() == MOST_NESTED {
            return Err(TOO_DEEP.to_owned());
        }
        let group = Group { capture, flags: self.flags, ..Group::default() };
        self.outer.push(std::mem::replace(&mut self.group, group));
        Ok(())
    }

    fn open_capture(&mut self) -> Result<(), String> {
        self.captures += 1;
        self.open_group(Some(self.captures))
    }

    /// Nothing asks for groups by their names, which need not be unique: they are not kept.
    fn open_named(&mut self, start: usize, name: usize) -> Result<(), String> {
        let length = self.pattern[name..].iter().position(|byte| *byte == b'>');
        let end = length.map(|length| name + length);
        self.at = end.map_or(self.pattern.len(), |end| end + 1);
        let name = &self.pattern[name..end.unwrap_or(name)];
        if name.is_empty() || !name.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_') {
            return Err(self.error("invalid named capture group", start));
        }
        self.open_capture()
    }

    /// `(?flags)`, which hold to the end of the group, or `(?flags:`, which begins one.
    fn set_flags(&mut self, start: usize) -> Result<(), String> {
        let (mut flags, mut value, mut any) = (self.flags, true, false);
        loop {
            match self.next() {
                Some(b'i') => flags.fold = value,
                Some(b'm') => flags.lines = value,
                Some(b's') => flags.dot_newline = value,
                Some(b'U') => flags.lazy = value,
                Some(b'-') if value => {
                    (value, any) = (false, false);
                    continue;
                }
                Some(end @ (b':' | b')')) if value || any => {
                    if end == b':' {
                        self.open_group(None)?;
                    }
                    self.flags = flags;
                    return Ok(());
                }
                _ => return Err(self.error("invalid perl operator", start)),
            }
            any = true;
        }
    }

    fn close(&mut self) -> Result<(), String> {
        let Some(outer) = self.outer.pop() else {
            return Err(format!("unexpected ): {}", String::from_utf8_lossy(self.pattern)));
        };
        let group = std::mem::replace(&mut self.group, outer);
        self.flags = group.flags;
        let extent = group.extent.around(1)?;
        self.push_of(group.into_hir(), extent);
        Ok(())
    }

    fn repeat(&mut self, start: usize, repeated: Option<usize>, counts: (u32, Option<u32>)) -> Result<(), String> {
        let (min, max) = counts;
        let greedy = self.eat(b'?') == self.flags.lazy;
        if let Some(first) = repeated {
            return Err(self.error("bad repetition operator", first));
        }
        if min.max(max.unwrap_or(0)) > MOST_REPETITIONS || max.is_some_and(|max| max < min) {
            return Err(self.error("invalid repetition size", start));
        }
        let Some((sub, mut extent)) = self.group.parts.pop() else {
            return Err(self.error("no argument for repetition operator", start));
        };
        extent.repetitions = extent.repetitions.saturating_mul(max.unwrap_or(min).max(1));
        if extent.repetitions > MOST_REPETITIONS {
            return Err(self.error("invalid repetition size", start));
        }
        let (part, levels) = match max {
            // Its groups count, though nothing is ever in them.
            Some(0) => (Hir::alternation(vec![Hir::empty(), Hir::concat(vec![Hir::fail(), sub])]), 2),
            _ => (Hir::repetition(Repetition { min, max, greedy, sub: Box::new(sub) }), 1),
        };
        self.push_of(part, extent.around(levels)?);
        self.repeated = Some(start);
        Ok(())
    }

    /// The counts of `{n}`, `{n,}` or `{n,m}`. Other braces stand for themselves.
    fn counts(&mut self) -> Option<(u32, Option<u32>)> {
        let inside = |byte: &&u8| byte.is_ascii_digit() || **byte == b',';
        let length = self.rest().iter().take(2 * LONGEST_COUNT + 1).take_while(inside).count();
        self.rest().get(length).filter(|byte| **byte == b'}')?;
        let text = std::str::from_utf8(&self.rest()[..length]).ok()?;
        let counts = match text.split_once(',') {
            None => (count(text)?, Some(count(text)?)),
            Some((min, "")) => (count(min)?, None),
            Some((min, max)) => (count(min)?, Some(count(max)?)),
        };
        self.at += length + 1;
        Some(counts)
    }

    /// What a backslash begins.
    fn escape(&mut self, start: usize) -> Result<(), String> {
        let part = match self.rest().first() {
            Some(b'A') => Hir::look(Look::Start),
            Some(b'z') => Hir::look(Look::End),
            Some(b'b') => Hir::look(Look::WordAscii),
            Some(b'B') => Hir::look(Look::WordAsciiNegate),
            Some(b'C') => ByteSet::all().into_hir(),
            Some(b'Q') => {
                self.quoted();
                return Ok(());
            }
            _ => {
                if let Some(set) = self.escaped_set(start)? {
                    self.push(set.into_hir());
                } else {
                    let byte = self.escaped_byte(start)?;
                    self.literal(byte);
                }
                return Ok(());
            }
        };
        self.at += 1;
        self.push(part);
        Ok(())
    }

    /// `\Q...\E`, or to the end.
    fn quoted(&mut self) {
        self.at += 1;
        while let Some(byte) = self.next() {
            if byte == b'\\' && self.eat(b'E') {
                return;
            }
            self.literal(byte);
        }
    }

    /// `\d` and its like, `\pN` and `\p{Name}`, if one is here.
    fn escaped_set(&mut self, start: usize) -> Result<Option<ByteSet>, String> {
        let Some(letter) = self.rest().first().copied() else { return Ok(None) };
        let set = match letter.to_ascii_lowercase() {
            b'd' => posix_set(b"digit"),
            b's' => Some(ByteSet::of(b"\t\n\x0c\r  ")),
            b'w' => posix_set(b"word"),
            b'p' => {
                self.at += 1;
                return self.unicode_set(start, letter == b'P').map(Some);
            }
            _ => None,
        };
        let Some(set) = set else { return Ok(None) };
        self.at += 1;
        Ok(Some(self.named(set, letter.is_ascii_uppercase())))
    }

    /// A named set, in both cases where case does not count.
    fn named(&self, set: ByteSet, negated: bool) -> ByteSet {
        let set = if self.flags.fold { set.folded() } else { set };
        if negated { set.negated() } else { set }
    }

    fn unicode_set(&mut self, start: usize, negated: bool) -> Result<ByteSet, String> {
        let rest = self.rest();
        let length = match rest {
            [b'{', ..] => rest.iter().position(|byte| *byte == b'}').map(|close| close + 1),
            _ => Some(rest.len().min(1)),
        };
        let name = &rest[..length.unwrap_or(0)];
        let name = name.strip_prefix(b"{").and_then(|name| name.strip_suffix(b"}")).unwrap_or(name);
        let (name, negated) = name.strip_prefix(b"^").map_or((name, negated), |name| (name, !negated));
        let set = std::str::from_utf8(name).ok().and_then(unicode_set);
        self.at = length.map_or(self.pattern.len(), |length| self.at + length);
        let set = set.ok_or_else(|| self.error("invalid character class range", start))?;
        Ok(self.named(set, negated))
    }

    /// The byte that an escape sequence stands for; the backslash is at `start`, and read.
    fn escaped_byte(&mut self, start: usize) -> Result<u8, String> {
        let Some(byte) = self.next() else { return Err("trailing \\".to_owned()) };
        let value = match byte {
            b'0'..=b'7' => self.octal(byte),
            b'x' => self.hexadecimal(),
            b'a' => Some(b'\x07'),
            b'f' => Some(b'\x0c'),
            b'n' => Some(b'\n'),
            b'r' => Some(b'\r'),
            b't' => Some(b'\t'),
            b'v' => Some(b'\x0b'),
            byte => (byte.is_ascii() && !byte.is_ascii_alphanumeric()).then_some(byte),
        };
        value.ok_or_else(|| self.error("invalid escape sequence", start))
    }

    /// Up to three digits; a single one that is not 0 would be a reference to a group, which RE2 does not have.
    fn octal(&mut self, first: u8) -> Option<u8> {
        let digit = |byte: &&u8| matches!(byte, b'0'..=b'7');
        let more = self.rest().iter().take(2).take_while(digit).count();
        if first != b'0' && more == 0 {
            return None;
        }
        self.at += more;
        let digits = std::str::from_utf8(&self.pattern[self.at - more - 1..self.at]).ok()?;
        u8::from_str_radix(digits, 8).ok()
    }

    /// `xHH` or `x{H...}`.
    fn hexadecimal(&mut self) -> Option<u8> {
        if !self.eat(b'{') {
            let (high, low) = (self.next()?, self.next()?);
            return Some((hexadecimal_digit(high)? << 4) | hexadecimal_digit(low)?);
        }
        let mut value = None;
        loop {
            match self.next()? {
                b'}' => return value,
                byte => value = Some(value.unwrap_or(0_u8).checked_mul(16)? | hexadecimal_digit(byte)?),
            }
        }
    }

    /// A class in brackets; the opening one is at `start`, and read.
    fn class(&mut self, start: usize) -> Result<(), String> {
        let negated = self.eat(b'^');
        let mut set = self.class_item(start)?;
        while !self.eat(b']') {
            set = set.or(&self.class_item(start)?);
        }
        self.push(if negated { set.negated() } else { set }.into_hir());
        Ok(())
    }

    fn class_item(&mut self, class: usize) -> Result<ByteSet, String> {
        let start = self.at;
        if let Some(set) = self.posix_set()? {
            return Ok(set);
        }
        if self.eat(b'\\') {
            if let Some(set) = self.escaped_set(start)? {
                return Ok(set);
            }
            self.at = start;
        }
        let first = self.class_byte(class)?;
        let last = match self.rest() {
            [b'-', next, ..] if *next != b']' => {
                self.at += 1;
                self.class_byte(class)?
            }
            _ => first,
        };
        if last < first {
            return Err(self.error("invalid character class range", start));
        }
        Ok(self.named(ByteSet::of(&[first, last]), false))
    }

    fn class_byte(&mut self, class: usize) -> Result<u8, String> {
        let start = self.at;
        match self.next() {
            None => Err(self.error("missing ]", class)),
            Some(b'\\') => self.escaped_byte(start),
            Some(byte) => Ok(byte),
        }
    }

    /// `[:name:]` or `[:^name:]`, if one is here.
    fn posix_set(&mut self) -> Result<Option<ByteSet>, String> {
        let Some(rest) = self.rest().strip_prefix(b"[:") else { return Ok(None) };
        if self.no_set_ends {
            return Ok(None);
        }
        let Some(length) = rest.windows(2).position(|end| end == b":]") else {
            self.no_set_ends = true;
            return Ok(None);
        };
        let name = &rest[..length];
        let (name, negated) = name.strip_prefix(b"^").map_or((name, false), |name| (name, true));
        let (set, start) = (posix_set(name), self.at);
        self.at += length + 4;
        let set = set.ok_or_else(|| self.error("invalid character class range", start))?;
        Ok(Some(self.named(set, negated)))
    }
}

/// A count as RE2 reads it: a larger one, or one with a zero before it, is none.
fn count(text: &str) -> Option<u32> {
    let plain = text.len() <= LONGEST_COUNT && text.bytes().all(|byte| byte.is_ascii_digit());
    let padded = text.len() > 1 && text.starts_with('0');
    if plain && !padded { text.parse().ok() } else { None }
}

fn hexadecimal_digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

fn latin1(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

#[cfg(test)]
mod tests;
