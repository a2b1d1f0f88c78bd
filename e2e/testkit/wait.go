package testkit

import (
	"testing"
	"time"
)

// Patience is how long a test waits for what must happen: longer than any busy machine
// takes. Only a test that fails waits so long.
const Patience = time.Minute

// Eventually waits until ok.
func Eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(Patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}
