"""Operations: every change of a Machine that takes more than one step, durable and resumable."""
