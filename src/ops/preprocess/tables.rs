//! The plan of a batch as `kernels/preprocess.cu` reads it.
//!
//! A job is 48 bytes a picture (`struct Job` there). A picture's tables, in units of 16 bytes: the spans of columns and of
//! rows, `[width + height][first, count]` u32, in groups of four inputs; weights of columns, `[groups][width]`, and of
//! rows, `[height][groups]`. The weights of a group of four inputs are 16 bytes: low halves of the four, high bytes of the
//! four, and four unused.

use std::ops::Range;

use super::{Cut, Picture};
use crate::ops::resample::{Axis, begins_vertically};

/// Words of a job.
const JOB: usize = 12;
/// Words in the unit of tables.
const UNIT: usize = 4;
/// Inputs of a group.
const GROUP: usize = 4;

/// What becomes of the pictures of a batch. Keeps its memory when it is cleared.
pub struct Batch {
    /// Height and width of a sample.
    size: (usize, usize),
    pictures: Vec<(Picture, Cut)>,
    jobs: Vec<u32>,
    tables: Vec<u32>,
    horizontal: Axis,
    vertical: Axis,
}

impl Batch {
    /// `size`: height and width of every sample.
    pub fn new(size: (usize, usize)) -> Batch {
        assert!(size.0 > 0 && size.1 > 0, "an empty sample");
        Batch {
            size,
            pictures: Vec::new(),
            jobs: Vec::new(),
            tables: Vec::new(),
            horizontal: Axis::default(),
            vertical: Axis::default(),
        }
    }

    pub fn clear(&mut self) {
        self.pictures.clear();
        self.jobs.clear();
        self.tables.clear();
    }

    /// Panics if the crop is not inside the picture.
    pub fn push(&mut self, picture: Picture, cut: Cut) {
        let crop = cut.crop;
        assert!(crop.width > 0 && crop.height > 0, "an empty crop");
        assert!(
            crop.right() <= picture.width && crop.bottom() <= picture.height,
            "the crop {crop:?} is outside of its picture {picture:?}"
        );
        assert!(3 * picture.width * picture.height < 1 << 32, "a picture of 4 GB");
        let (height, width) = self.size;
        let (columns, rows) = (cut.columns(width), cut.rows(height));
        let across = Groups::of(
            &mut self.horizontal,
            crop.width,
            cut.resized.0,
            &cut,
            columns,
            cut.offset.0,
            width,
        );
        let down = Groups::of(
            &mut self.vertical,
            crop.height,
            cut.resized.1,
            &cut,
            rows,
            cut.offset.1,
            height,
        );
        let pitch = 3 * picture.width;
        let start = (picture.start + crop.y * pitch + 3 * crop.x) as u64;
        let place = (self.tables.len() / UNIT) as u64;
        let vertical_first = begins_vertically((crop.width, cut.resized.0), (crop.height, cut.resized.1));
        self.jobs.extend([
            start as u32,
            (start >> 32) as u32,
            place as u32,
            (place >> 32) as u32,
            pitch as u32,
            crop.height as u32,
            across.most as u32,
            down.most as u32,
            cut.flip as u32,
            vertical_first as u32,
            0,
            0,
        ]);
        self.pictures.push((picture, cut));
        self.write(&across, &down);
    }

    fn write(&mut self, across: &Groups, down: &Groups) {
        let words = &mut self.tables;
        for &(first, count) in across.spans.iter().chain(&down.spans) {
            words.extend([first as u32, count as u32]);
        }
        words.resize(words.len().next_multiple_of(UNIT), 0);
        for group in 0..across.most {
            for output in 0..across.spans.len() {
                words.extend(across.weights(output, group));
            }
        }
        for output in 0..down.spans.len() {
            for group in 0..down.most {
                words.extend(down.weights(output, group));
            }
        }
    }

    pub fn len(&self) -> usize {
        self.pictures.len()
    }

    pub fn is_empty(&self) -> bool {
        self.pictures.is_empty()
    }

    /// Height and width of a sample.
    pub fn size(&self) -> (usize, usize) {
        self.size
    }

    pub fn pictures(&self) -> &[(Picture, Cut)] {
        &self.pictures
    }

    /// For the kernel; 8-byte aligned there.
    pub fn jobs(&self) -> &[u32] {
        debug_assert_eq!(self.jobs.len(), self.len() * JOB);
        &self.jobs
    }

    /// For the kernel; 16-byte aligned there.
    pub fn tables(&self) -> &[u32] {
        &self.tables
    }
}

impl Cut {
    /// The columns of the resized crop that a sample of this width shows.
    pub fn columns(&self, width: usize) -> Range<usize> {
        window(self.offset.0, width, self.resized.0)
    }

    pub fn rows(&self, height: usize) -> Range<usize> {
        window(self.offset.1, height, self.resized.1)
    }
}

fn window(offset: isize, wanted: usize, available: usize) -> Range<usize> {
    let end = (offset + wanted as isize).clamp(0, available as isize) as usize;
    (offset.max(0) as usize).min(end)..end
}

/// The weights of one direction, in groups of four inputs that start at multiples of four.
struct Groups {
    /// First group and number of groups of each row or column of the sample; firsts and ends never fall.
    spans: Vec<(usize, usize)>,
    /// First input and weights; none for padding.
    weights: Vec<(usize, Vec<i32>)>,
    most: usize,
}

impl Groups {
    fn of(
        axis: &mut Axis,
        inputs: usize,
        outputs: usize,
        cut: &Cut,
        window: Range<usize>,
        offset: isize,
        samples: usize,
    ) -> Groups {
        let mut weights = vec![(0, Vec::new()); samples];
        if !window.is_empty() {
            axis.set(inputs, outputs, cut.filter, window.clone());
            for output in window {
                let (first, all) = axis.weights(output);
                let used = all.iter().rposition(|weight| *weight != 0).map_or(0, |last| last + 1);
                weights[(output as isize - offset) as usize] = (first, all[..used].to_vec());
            }
        }
        let mut ranges: Vec<Option<(usize, usize)>> = weights
            .iter()
            .map(|(first, weights)| {
                (!weights.is_empty()).then(|| (first / GROUP, (first + weights.len()).div_ceil(GROUP)))
            })
            .collect();
        // Padding takes the empty range before its successor or behind its predecessor; ends are raised and firsts lowered
        // where a weight that is 0 has shortened a neighbour.
        let mut end = ranges.iter().flatten().next().map_or(0, |(first, _)| *first);
        for range in &mut ranges {
            let (first, last) = range.unwrap_or((end, end));
            end = end.max(last);
            *range = Some((first, end));
        }
        let mut first = usize::MAX;
        for (begin, _) in ranges.iter_mut().rev().flatten() {
            first = first.min(*begin);
            *begin = first;
        }
        let spans: Vec<(usize, usize)> = ranges
            .iter()
            .flatten()
            .map(|(first, end)| (*first, end - first))
            .collect();
        let most = spans.iter().map(|(_, count)| *count).max().unwrap_or(0);
        Groups { spans, weights, most }
    }

    /// The four words of group `group` of an output's span.
    fn weights(&self, output: usize, group: usize) -> [u32; UNIT] {
        let (first_group, count) = self.spans[output];
        let (first, weights) = &self.weights[output];
        let mut words = [0; UNIT];
        if group >= count {
            return words;
        }
        for lane in 0..GROUP {
            let input = (first_group + group) * GROUP + lane;
            let weight = match input.checked_sub(*first) {
                Some(at) if at < weights.len() => weights[at],
                _ => continue,
            };
            let high = weight >> 16;
            assert!(i8::try_from(high).is_ok(), "a weight of {weight} / 2^22");
            words[lane / 2] |= (weight as u32 & 0xffff) << (16 * (lane % 2));
            words[2] |= (high as u32 & 0xff) << (8 * lane);
        }
        words
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Filter, Rect};
    use super::*;

    /// Spans cover every weight, and their firsts and ends never fall, padding included.
    #[test]
    fn spans_are_in_order() {
        for filter in Filter::ALL {
            for (inputs, outputs, samples, offset) in [
                (512, 224, 224, 0),
                (1, 224, 224, 0),
                (37, 331, 224, 53),
                (3000, 7, 9, -1),
                (224, 224, 224, 0),
                (100, 50, 10, 60),
                (9, 5, 3, -3),
            ] {
                let cut = Cut {
                    crop: Rect::whole(inputs, 1),
                    resized: (outputs, 1),
                    filter,
                    offset: (offset, 0),
                    flip: false,
                };
                let groups = Groups::of(
                    &mut Axis::default(),
                    inputs,
                    outputs,
                    &cut,
                    cut.columns(samples),
                    offset,
                    samples,
                );
                let place = format!("{filter:?} {inputs} to {outputs}, {samples} from {offset}");
                let ends = |(first, count): (usize, usize)| (first, first + count);
                for pair in groups.spans.windows(2) {
                    let (a, b) = (ends(pair[0]), ends(pair[1]));
                    assert!(a.0 <= b.0 && a.1 <= b.1, "{place}: {a:?} {b:?}");
                }
                for (output, (first, weights)) in groups.weights.iter().enumerate() {
                    let (start, end) = ends(groups.spans[output]);
                    assert!(
                        weights.is_empty() || (start * 4 <= *first && first + weights.len() <= end * 4),
                        "{place}: output {output}"
                    );
                    let sum: i64 = (0..groups.most)
                        .flat_map(|group| {
                            let [a, b, c, _] = groups.weights(output, group);
                            (0..4).map(move |lane| {
                                let low = [a, b][lane / 2] >> (16 * (lane % 2)) & 0xffff;
                                low as i64 + 65536 * (c >> (8 * lane)) as u8 as i8 as i64
                            })
                        })
                        .sum();
                    assert_eq!(
                        sum,
                        weights.iter().map(|w| *w as i64).sum::<i64>(),
                        "{place}: output {output}"
                    );
                }
            }
        }
    }
}
