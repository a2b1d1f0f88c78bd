package testkit

import (
	"fmt"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// VerifyMain is the last call of a TestMain: it runs the tests, and fails if goroutines
// are left over that do not end within Patience. goleak alone gives them half a second.
func VerifyMain(m *testing.M, ignore ...goleak.Option) {
	code := Main{m}.Run()
	if code == 0 {
		if err := leftOver(ignore); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

func leftOver(ignore []goleak.Option) error {
	for end := time.Now().Add(Patience); ; {
		if err := goleak.Find(ignore...); err == nil || time.Now().After(end) {
			return err
		}
	}
}
