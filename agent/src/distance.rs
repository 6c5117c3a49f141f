//! How far what somebody wrote is from what they may have meant.

/// Levenshtein's distance: how many letters are added, left out or changed.
pub fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (line, of_one) in one.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], line + 1);
        for (column, of_other) in other.iter().enumerate() {
            let changed = diagonal + usize::from(of_one != *of_other);
            diagonal = row[column + 1];
            row[column + 1] = changed.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::distance;

    #[test]
    fn a_distance_is_the_letters_to_change() {
        for (one, other, letters) in
            [("web", "web", 0), ("wb", "web", 1), ("wbe", "web", 2), ("", "web", 3), ("a", "", 1), ("wéb", "web", 1)]
        {
            assert_eq!(distance(one, other), letters, "{one} {other}");
        }
    }
}
