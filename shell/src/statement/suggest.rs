//! The word that was probably meant.

use strsim::osa_distance;

/// Words longer than this are not compared: nobody mistypes a command of that length.
const LETTERS_MAX: usize = 64;

/// The nearest of the candidates, if one is near enough to have been meant. Case does not count.
pub fn nearest<'a>(given: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let given: String = given.to_lowercase().chars().take(LETTERS_MAX + 1).collect();
    let letters = given.chars().count();
    // One letter is near to every short word.
    if !(2..=LETTERS_MAX).contains(&letters) {
        return None;
    }
    let far = (letters / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| {
            let word: String = candidate.to_lowercase().chars().take(LETTERS_MAX).collect();
            // The beginning of a word is meant as that word. Else letters added, left out, exchanged, or swapped count.
            (if word.starts_with(&given) { 0 } else { osa_distance(&given, &word) }, candidate)
        })
        .filter(|(distance, _)| *distance <= far)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
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
