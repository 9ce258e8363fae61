//! Figures of an evaluation by name, and the one that checkpoints are compared by.

/// What an evaluation measures of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Figure {
    Loss,
    Accuracy,
    /// Share of samples whose label is among the five likeliest classes.
    Top5,
    Precision(Average),
    Recall(Average),
    F1(Average),
}

/// How figures of single classes become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Average {
    /// Over samples: all classes' counts are added up first.
    Micro,
    /// Over classes.
    Macro,
    /// Over classes, weighted by their numbers of samples.
    Weighted,
}

impl Figure {
    pub const ALL: [Figure; 12] = [
        Figure::Loss,
        Figure::Accuracy,
        Figure::Top5,
        Figure::Precision(Average::Micro),
        Figure::Precision(Average::Macro),
        Figure::Precision(Average::Weighted),
        Figure::Recall(Average::Micro),
        Figure::Recall(Average::Macro),
        Figure::Recall(Average::Weighted),
        Figure::F1(Average::Micro),
        Figure::F1(Average::Macro),
        Figure::F1(Average::Weighted),
    ];

    /// Its name in files, without Trainer's prefix `eval_`.
    pub fn name(self) -> &'static str {
        use Average::{Macro, Micro, Weighted};
        match self {
            Figure::Loss => "loss",
            Figure::Accuracy => "accuracy",
            Figure::Top5 => "top_5_accuracy",
            Figure::Precision(Micro) => "precision_micro",
            Figure::Precision(Macro) => "precision_macro",
            Figure::Precision(Weighted) => "precision_weighted",
            Figure::Recall(Micro) => "recall_micro",
            Figure::Recall(Macro) => "recall_macro",
            Figure::Recall(Weighted) => "recall_weighted",
            Figure::F1(Micro) => "f1_micro",
            Figure::F1(Macro) => "f1_macro",
            Figure::F1(Weighted) => "f1_weighted",
        }
    }

    /// Reads a name with or without `eval_`; `f1`, `precision` and `recall` alone mean the micro average.
    pub fn named(name: &str) -> Option<Figure> {
        let name = name.strip_prefix("eval_").unwrap_or(name);
        match name {
            "f1" => Some(Figure::F1(Average::Micro)),
            "precision" => Some(Figure::Precision(Average::Micro)),
            "recall" => Some(Figure::Recall(Average::Micro)),
            "top5" | "top_5" => Some(Figure::Top5),
            _ => Figure::ALL.into_iter().find(|figure| figure.name() == name),
        }
    }
}

/// What "best" means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BestMetric {
    pub figure: Figure,
    pub better: Better,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    Higher,
    Lower,
}

impl BestMetric {
    /// Reads `metric_for_best_model` and `greater_is_better`; if that is not said, a loss is better when lower, as Trainer has it.
    pub fn named(name: &str, greater_is_better: Option<bool>) -> Option<Self> {
        let figure = Figure::named(name)?;
        let better = match greater_is_better.unwrap_or(figure != Figure::Loss) {
            true => Better::Higher,
            false => Better::Lower,
        };
        Some(BestMetric { figure, better })
    }

    /// Is `new` better than `old`? Not so when `new` is not a number.
    pub fn better(self, new: f64, old: f64) -> bool {
        match self.better {
            Better::Higher => new > old,
            Better::Lower => new < old,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_read_with_and_without_prefix() {
        for figure in Figure::ALL {
            assert_eq!(Figure::named(figure.name()), Some(figure));
            assert_eq!(Figure::named(&format!("eval_{}", figure.name())), Some(figure));
        }
        assert_eq!(Figure::named("eval_f1"), Some(Figure::F1(Average::Micro)));
        assert_eq!(Figure::named("perplexity"), None);
    }

    #[test]
    fn only_a_loss_is_better_when_lower_unless_told_otherwise() {
        let better = |name, greater| BestMetric::named(name, greater).unwrap().better;
        assert_eq!(better("eval_loss", None), Better::Lower);
        assert_eq!(better("f1_macro", None), Better::Higher);
        assert_eq!(better("loss", Some(true)), Better::Higher);
        assert_eq!(better("accuracy", Some(false)), Better::Lower);
        let loss = BestMetric::named("loss", None).unwrap();
        assert!(loss.better(0.5, 0.6) && !loss.better(0.6, 0.6) && !loss.better(f64::NAN, 0.6));
    }
}
