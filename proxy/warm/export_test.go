package warm

// RunDue starts the jobs that are due, as Run does.
func (w *Warmer) RunDue() { w.runDue() }
