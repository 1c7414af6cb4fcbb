"""The paper's study: its tables, figures and the visual Turing test."""
