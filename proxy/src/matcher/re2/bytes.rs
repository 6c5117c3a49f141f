//! Sets of bytes, and those that have names: POSIX's, and Unicode's categories and scripts as far as Latin-1 goes.

use regex_syntax::hir::{Class, ClassBytes, ClassBytesRange, Hir};

/// A set of bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ByteSet([bool; 256]);

impl ByteSet {
    /// The bytes in these ranges, each given by its first and its last byte.
    pub fn of(ranges: &[u8]) -> Self {
        let mut set = Self([false; 256]);
        for range in ranges.chunks_exact(2) {
            set.0[usize::from(range[0])..=usize::from(range[1])].fill(true);
        }
        set
    }

    /// All bytes.
    pub fn all() -> Self {
        Self([true; 256])
    }

    /// All other bytes.
    pub fn negated(self) -> Self {
        Self(self.0.map(|there| !there))
    }

    /// The bytes of both.
    pub fn or(mut self, other: &Self) -> Self {
        for (there, other) in self.0.iter_mut().zip(other.0) {
            *there |= other;
        }
        self
    }

    /// These, and the same letters in the other case: ASCII's, as RE2 folds no others in Latin-1.
    pub fn folded(self) -> Self {
        let mut folded = self.clone();
        for byte in (b'A'..=b'Z').chain(b'a'..=b'z') {
            folded.0[usize::from(byte)] |= self.0[usize::from(byte ^ 0x20)];
        }
        folded
    }

    /// The expression that matches one of them.
    pub fn into_hir(self) -> Hir {
        let bytes = (0..=u8::MAX).filter(|byte| self.0[usize::from(*byte)]);
        Hir::class(Class::Bytes(ClassBytes::new(bytes.map(|byte| ClassBytesRange::new(byte, byte)))))
    }
}

/// The bytes of `[:name:]`.
pub fn posix_set(name: &[u8]) -> Option<ByteSet> {
    let ranges: &[u8] = match name {
        b"alnum" => b"09AZaz",
        b"alpha" => b"AZaz",
        b"ascii" => b"\x00\x7f",
        b"blank" => b"\t\t  ",
        b"cntrl" => b"\x00\x1f\x7f\x7f",
        b"digit" => b"09",
        b"graph" => b"!~",
        b"lower" => b"az",
        b"print" => b" ~",
        b"punct" => b"!/:@[`{~",
        b"space" => b"\t\r  ",
        b"upper" => b"AZ",
        b"word" => b"09AZ__az",
        b"xdigit" => b"09AFaf",
        _ => return None,
    };
    Some(ByteSet::of(ranges))
}

/// The bytes of `\p{name}`.
pub fn unicode_set(name: &str) -> Option<ByteSet> {
    let latin = ByteSet::of(b"AZaz\xaa\xaa\xba\xba\xc0\xd6\xd8\xf6\xf8\xff");
    match name {
        "Any" => Some(ByteSet::all()),
        "Latin" => Some(latin),
        "Common" => Some(latin.negated()),
        name if SCRIPTS.split(' ').any(|script| script == name) => Some(ByteSet::of(b"")),
        name => category_set(name),
    }
}

/// A category has two letters; one letter stands for all that begin with it.
fn category_set(name: &str) -> Option<ByteSet> {
    CATEGORIES
        .iter()
        .filter(|(category, _)| *category == name || category.get(..1) == Some(name))
        .map(|(_, ranges)| ByteSet::of(ranges))
        .reduce(|all, set| all.or(&set))
}

/// Unicode's general categories, and their ranges of bytes.
const CATEGORIES: [(&str, &[u8]); 29] = [
    ("Cc", b"\x00\x1f\x7f\x9f"),
    ("Cf", b"\xad\xad"),
    ("Co", b""),
    ("Cs", b""),
    ("Ll", b"az\xb5\xb5\xdf\xf6\xf8\xff"),
    ("Lm", b""),
    ("Lo", b"\xaa\xaa\xba\xba"),
    ("Lt", b""),
    ("Lu", b"AZ\xc0\xd6\xd8\xde"),
    ("Mc", b""),
    ("Me", b""),
    ("Mn", b""),
    ("Nd", b"09"),
    ("Nl", b""),
    ("No", b"\xb2\xb3\xb9\xb9\xbc\xbe"),
    ("Pc", b"__"),
    ("Pd", b"--"),
    ("Pe", b"))]]}}"),
    ("Pf", b"\xbb\xbb"),
    ("Pi", b"\xab\xab"),
    ("Po", b"!#%'**,,./:;?@\\\\\xa1\xa1\xa7\xa7\xb6\xb7\xbf\xbf"),
    ("Ps", b"(([[{{"),
    ("Sc", b"$$\xa2\xa5"),
    ("Sk", b"^^``\xa8\xa8\xaf\xaf\xb4\xb4\xb8\xb8"),
    ("Sm", b"++<>||~~\xac\xac\xb1\xb1\xd7\xd7\xf7\xf7"),
    ("So", b"\xa6\xa6\xa9\xa9\xae\xae\xb0\xb0"),
    ("Zl", b""),
    ("Zp", b""),
    ("Zs", b"  \xa0\xa0"),
];

/// Unicode's scripts in Envoy's RE2, but for those that have bytes.
const SCRIPTS: &str = "\
    Adlam Ahom Anatolian_Hieroglyphs Arabic Armenian Avestan Balinese Bamum Bassa_Vah Batak Bengali Bhaiksuki \
    Bopomofo Brahmi Braille Buginese Buhid Canadian_Aboriginal Carian Caucasian_Albanian Chakma Cham Cherokee \
    Chorasmian Coptic Cuneiform Cypriot Cypro_Minoan Cyrillic Deseret Devanagari Dives_Akuru Dogra Duployan \
    Egyptian_Hieroglyphs Elbasan Elymaic Ethiopic Georgian Glagolitic Gothic Grantha Greek Gujarati Gunjala_Gondi \
    Gurmukhi Hangul Hanifi_Rohingya Hanunoo Han Hatran Hebrew Hiragana Imperial_Aramaic Inherited \
    Inscriptional_Pahlavi Inscriptional_Parthian Javanese Kaithi Kannada Katakana Kawi Kayah_Li Kharoshthi \
    Khitan_Small_Script Khmer Khojki Khudawadi Lao Lepcha Limbu Linear_A Linear_B Lisu Lycian Lydian Mahajani \
    Makasar Malayalam Mandaic Manichaean Marchen Masaram_Gondi Medefaidrin Meetei_Mayek Mende_Kikakui \
    Meroitic_Cursive Meroitic_Hieroglyphs Miao Modi Mongolian Mro Multani Myanmar Nabataean Nag_Mundari Nandinagari \
    New_Tai_Lue Newa Nko Nushu Nyiakeng_Puachue_Hmong Ogham Ol_Chiki Old_Hungarian Old_Italic Old_North_Arabian \
    Old_Permic Old_Persian Old_Sogdian Old_South_Arabian Old_Turkic Old_Uyghur Oriya Osage Osmanya Pahawh_Hmong \
    Palmyrene Pau_Cin_Hau Phags_Pa Phoenician Psalter_Pahlavi Rejang Runic Samaritan Saurashtra Sharada Shavian \
    Siddham SignWriting Sinhala Sogdian Sora_Sompeng Soyombo Sundanese Syloti_Nagri Syriac Tagalog Tagbanwa Tai_Le \
    Tai_Tham Tai_Viet Takri Tamil Tangsa Tangut Telugu Thaana Thai Tibetan Tifinagh Tirhuta Toto Ugaritic Vai \
    Vithkuqi Wancho Warang_Citi Yezidi Yi Zanabazar_Square";
