//! The table of figures, and the little statistics behind it.

use comfy_table::{Table as Grid, presets::ASCII_MARKDOWN};

/// Rows of: what, Howdah, the alternative, ratio, target.
pub struct Table(Grid);

impl Table {
    pub fn new() -> Self {
        let mut grid = Grid::new();
        grid.load_style(ASCII_MARKDOWN);
        grid.set_header([
            "figure",
            "howdah",
            "alternative",
            "ratio",
            "target",
            "measured",
        ]);
        Self(grid)
    }

    /// A comparison; the ratio is the median of the rounds' ratios.
    pub fn compare(
        &mut self,
        what: &str,
        pairs: &[(f64, f64)],
        unit: &str,
        target: &str,
        how: &str,
    ) {
        let ours: Vec<f64> = pairs.iter().map(|pair| pair.0).collect();
        let theirs: Vec<f64> = pairs.iter().map(|pair| pair.1).collect();
        let ratios: Vec<f64> = pairs.iter().map(|pair| pair.0 / pair.1).collect();
        self.0.add_row([
            what.to_owned(),
            show(&ours, unit),
            show(&theirs, unit),
            show(&ratios, ""),
            target.to_owned(),
            format!("{how}; {} rounds", pairs.len()),
        ]);
    }

    /// A figure that stands alone.
    pub fn alone(&mut self, what: &str, values: &[f64], unit: &str, target: &str, how: &str) {
        self.0.add_row([
            what.to_owned(),
            show(values, unit),
            String::new(),
            String::new(),
            target.to_owned(),
            format!("{how}; {} rounds", values.len()),
        ]);
    }

    pub fn print(&self) {
        println!("\nmedian (smallest .. largest)\n{}", self.0);
    }
}

fn show(values: &[f64], unit: &str) -> String {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (first, last) = (sorted[0], sorted[sorted.len() - 1]);
    let unit = if unit.is_empty() {
        String::new()
    } else {
        format!(" {unit}")
    };
    format!(
        "{}{unit} ({} .. {})",
        digits(median(values)),
        digits(first),
        digits(last)
    )
}

fn digits(value: f64) -> String {
    match value {
        ..10.0 => format!("{value:.3}"),
        10.0..1000.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

pub fn median(values: &[f64]) -> f64 {
    percentile(values, 0.5)
}

pub fn percentile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = (sorted.len() - 1) as f64 * share;
    sorted[at.round() as usize]
}
