package fill

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

// In all tests of the package an illegal transition panics.
func init() { strict = true }

// TestTransitionsAreDocumented compares the transitions in the code with the
// table at state and with the diagram for people.
func TestTransitionsAreDocumented(t *testing.T) {
	want := make(map[string]bool)
	for from, all := range transitions {
		for _, to := range all {
			want[fmt.Sprint(state(from), " ", to)] = true
		}
	}
	for file, pattern := range map[string]string{
		"state.go":                          `(?m)^//\t(\w+) +(\w+)  `,
		"../../deploy/docs/architecture.md": `(?m)^    (\w+) --> (\w+):`,
	} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		got := make(map[string]bool)
		for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(string(text), -1) {
			if m[1] != "from" { // the head of the table
				got[strings.ToLower(m[1]+" "+m[2])] = true
			}
		}
		for one := range want {
			if !got[one] {
				t.Errorf("%s lacks %s", file, one)
			}
		}
		for one := range got {
			if !want[one] {
				t.Errorf("%s has %s", file, one)
			}
		}
	}
}

// An illegal transition is refused, and every state but the ends has a way out.
func TestIllegalTransitionPanics(t *testing.T) {
	s := newFills(t)
	for from := range states {
		if (len(transitions[from]) == 0) != (from > stateStopping) {
			t.Errorf("%s has %d transitions", from, len(transitions[from]))
		}
		for to := range states {
			f := newFill(s, Want{Digest: digest.FromString("")}, false)
			f.state = from
			func() {
				defer func() {
					if legal := recover() == nil; legal != slices.Contains(transitions[from], to) {
						t.Errorf("from %s to %s: legal %v", from, to, legal)
					}
				}()
				f.move(to)
			}()
		}
	}
}
