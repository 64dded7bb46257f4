//! The word that was probably meant.

/// Words longer than this are not compared: nobody mistypes a command of that length.
const LETTERS_MAX: usize = 64;

/// The nearest of the candidates, if one is near enough to have been meant. Case does not count.
pub fn nearest<'a>(given: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let given: Vec<char> = given.to_lowercase().chars().take(LETTERS_MAX + 1).collect();
    // One letter is near to every short word.
    if given.len() < 2 || given.len() > LETTERS_MAX {
        return None;
    }
    let far = (given.len() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| {
            let letters: Vec<char> = candidate.to_lowercase().chars().take(LETTERS_MAX).collect();
            // The beginning of a word is meant as that word.
            let begins = given.len() >= 2 && letters.starts_with(&given);
            (if begins { 0 } else { distance(&given, &letters) }, candidate)
        })
        .filter(|(distance, _)| *distance <= far)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Letters added, left out, exchanged, or swapped with their neighbour.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let at = |row: &[usize], place: usize| row.get(place).copied().unwrap_or(usize::MAX / 2);
            let changed = at(&last, j) + usize::from(x != y);
            let mut least = changed.min(at(&last, j + 1) + 1).min(at(&row, j) + 1);
            let is_swap = i > 0 && j > 0 && a.get(i - 1) == Some(y) && b.get(j - 1) == Some(x);
            if is_swap {
                least = least.min(at(&before_last, j - 1) + 1);
            }
            row.push(least);
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistyped_word_leads_to_the_right_one() {
        let commands = ["PUT", "GET", "UPDATE", "DELETE", "SCAN", "CONSISTENCY", "NODES"];
        for (given, meant) in [("PTU", "PUT"), ("gte", "GET"), ("delet", "DELETE"), ("consistnecy", "CONSISTENCY")] {
            assert_eq!(nearest(given, commands), Some(meant), "{given}");
        }
    }

    #[test]
    fn a_word_like_no_other_leads_nowhere() {
        assert_eq!(nearest("frobnicate", ["PUT", "GET"]), None);
        assert_eq!(nearest(&"x".repeat(1_000), ["PUT"]), None);
    }
}
