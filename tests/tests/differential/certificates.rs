//! Certificates of a case file, made anew in every run.

use std::{collections::BTreeMap, fs, path::Path};

use super::case::Certificate;

/// Makes them: `NAME.pem` (with its issuers), `NAME.key`, and `NAME.crl` for those that revoke.
pub fn make(certificates: &BTreeMap<String, Certificate>, directory: &Path) {
    fs::create_dir_all(directory).expect("a directory of this test");
    assert!(certificates.is_empty(), "certificates are not made yet");
}
