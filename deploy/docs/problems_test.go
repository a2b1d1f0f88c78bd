package docs

import (
	"os"
	"regexp"
	"testing"

	"hubcap/proxy/problems"
)

// TestRunbookHasEachProblem shows that the heading that a problem names is in the
// runbook once.
func TestRunbookHasEachProblem(t *testing.T) {
	text, err := os.ReadFile("runbook.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range problems.Kinds() {
		if !regexp.MustCompile(`^[a-z]+(-[a-z]+)*$`).MatchString(k.Name) {
			t.Errorf("%s is no heading of lower-case words with hyphens", k.Name)
		}
		if n := len(regexp.MustCompile(`(?m)^#+ `+k.Name+`$`).FindAll(text, -1)); n != 1 {
			t.Errorf("the runbook has %d headings %s, want 1", n, k.Name)
		}
	}
}
