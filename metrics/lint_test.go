package metrics

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

// TestNamesFollowTheConventions holds names, units and help texts of hubcap's
// own metrics against Prometheus' linter.
func TestNamesFollowTheConventions(t *testing.T) {
	families, err := Families()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range families {
		names = append(names, f.Name)
		if !strings.HasSuffix(f.Help, ".") {
			t.Errorf("%s: the help text is no sentence: %q", f.Name, f.Help)
		}
	}
	m := New()
	m.sample()
	problems, err := testutil.GatherAndLint(m.registry, names...)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}
