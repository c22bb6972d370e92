//! A picture of the rate against the number of callers.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Result, anyhow};
use indelible_bench::subject::Kind;
use plotters::{
    coord::combinators::IntoLogRange as _,
    prelude::{
        ChartBuilder, Circle, IntoDrawingArea as _, LineSeries, Palette as _, Palette99, PathElement, SVGBackend,
    },
    style::{BLACK, Color as _, WHITE},
};

/// For each subject its events a second by callers.
pub type Rates = BTreeMap<Kind, BTreeMap<u32, f64>>;

/// Draws one line a subject, both axes logarithmic.
pub fn draw(path: &Path, rates: &Rates) -> Result<()> {
    let callers = || rates.values().flat_map(BTreeMap::keys).copied();
    let every = || rates.values().flat_map(BTreeMap::values).copied();
    let (Some(least), Some(most)) = (callers().min(), callers().max()) else {
        return Err(anyhow!("no appends of single events were measured that could be drawn"));
    };
    let low = every().fold(f64::INFINITY, f64::min) / 1.5;
    let high = every().fold(0.0, f64::max) * 1.5;

    let root = SVGBackend::new(path, (900, 560)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption("Durable appends of one 256-byte event", ("sans-serif", 20))
        .margin(16)
        .x_label_area_size(44)
        .y_label_area_size(84)
        .build_cartesian_2d((f64::from(least)..f64::from(most.max(least + 1))).log_scale(), (low..high).log_scale())?;
    chart
        .configure_mesh()
        .x_desc("concurrent callers")
        .y_desc("events a second")
        .x_label_formatter(&|callers| format!("{callers:.0}"))
        .y_label_formatter(&|rate| format!("{rate:.0}"))
        .light_line_style(BLACK.mix(0.05))
        .draw()?;
    for (index, (subject, line)) in rates.iter().enumerate() {
        let colour = Palette99::pick(index);
        let points = || line.iter().map(|(callers, rate)| (f64::from(*callers), *rate));
        chart
            .draw_series(LineSeries::new(points(), colour.stroke_width(2)))?
            .label(subject.to_string())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], Palette99::pick(index).stroke_width(2)));
        chart.draw_series(points().map(|point| Circle::new(point, 4, colour.filled())))?;
    }
    chart
        .configure_series_labels()
        .position(plotters::prelude::SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.2))
        .draw()?;
    root.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_subject_has_a_line_and_its_name() {
        let line = |rate: f64| BTreeMap::from([(1, rate), (16, rate * 8.0), (1_024, rate * 100.0)]);
        let rates = BTreeMap::from([(Kind::File, line(5_000.0)), (Kind::IndelibleRocksdb, line(4_500.0))]);
        let file = tempfile::NamedTempFile::with_suffix(".svg").expect("a file");
        draw(file.path(), &rates).expect("a picture");
        let svg = std::fs::read_to_string(file.path()).expect("a picture");
        assert_eq!(svg.matches("<circle").count(), 6);
        assert!(svg.contains("indelible-rocksdb") && svg.contains("concurrent callers"));
        assert!(draw(file.path(), &BTreeMap::new()).is_err());
    }
}
