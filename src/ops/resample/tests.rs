//! Resampling, bit for bit.
use super::*;

fn picture(width: usize, height: usize) -> Planes {
    let mut planes = Planes::default();
    planes.reshape(0..width, 0..height);
    for channel in 0..3 {
        for y in 0..height {
            for x in 0..width {
                let noise = (x * 7919 + y * 104_729 + channel * 1_299_709) % 1009;
                planes.row_mut(channel, y)[x] = (noise % 256) as u8;
            }
        }
    }
    planes
}

fn resize(planes: &Planes, horizontal: &Axis, vertical: &Axis, kernels: Kernels) -> Vec<u8> {
    let mut out = Vec::new();
    Resampler::new(kernels).run(planes, (0, 0), horizontal, vertical, |_, _, row| {
        out.extend_from_slice(row)
    });
    out
}

/// Values that Pillow gives: `Image.fromarray(np.array([0, 10, 200, 255, 3, 90, 91], "u1")[None]).resize((4, 1), filter)`.
#[test]
fn small_rows_are_pillows() {
    let mut planes = Planes::default();
    planes.reshape(0..7, 0..1);
    planes.row_mut(0, 0)[..7].copy_from_slice(&[0, 10, 200, 255, 3, 90, 91]);
    let row = |filter| {
        let (h, v) = (Axis::new(7, 4, filter, 0..4), Axis::new(1, 1, filter, 0..1));
        resize(&planes, &h, &v, Kernels::best())[..4].to_vec()
    };
    for (filter, expected) in PILLOW_ROWS {
        assert_eq!(row(*filter), expected, "{filter:?}");
    }
}

const PILLOW_ROWS: &[(Filter, [u8; 4])] = &[
    (Filter::Nearest, [0, 200, 3, 91]),
    (Filter::Lanczos, [0, 199, 98, 74]),
    (Filter::Bilinear, [14, 177, 91, 86]),
    (Filter::Bicubic, [0, 192, 94, 82]),
    (Filter::Box, [5, 228, 3, 91]),
    (Filter::Hamming, [5, 193, 71, 90]),
];

#[test]
fn a_window_is_a_part_of_the_whole() {
    let planes = picture(61, 47);
    for filter in Filter::ALL {
        for (width, height) in [(20, 30), (90, 100), (61, 9), (1, 1)] {
            let (h, v) = (
                Axis::new(61, width, filter, 0..width),
                Axis::new(47, height, filter, 0..height),
            );
            let whole = resize(&planes, &h, &v, Kernels::best());
            let (columns, rows) = (width / 3..width - width / 4, height / 4..height - height / 3);
            let (h, v) = (
                Axis::new(61, width, filter, columns.clone()),
                Axis::new(47, height, filter, rows.clone()),
            );
            let part = resize(&planes, &h, &v, Kernels::best());
            let mut expected = Vec::new();
            for channel in 0..3 {
                for y in rows.clone() {
                    expected.extend_from_slice(&whole[(channel * height + y) * width..][columns.clone()]);
                }
            }
            assert_eq!(part, expected, "{filter:?} {width} x {height}");
        }
    }
}
