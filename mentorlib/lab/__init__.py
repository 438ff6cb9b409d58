"""What a person looks at: analysis, figures, reports, notebooks in batch, studies, export."""
