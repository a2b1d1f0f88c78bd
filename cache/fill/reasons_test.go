package fill

import (
	"testing"

	"hubcap/metrics"
)

// TestReasonsAreCounted compares the reasons with the label values that metrics
// has: one that metrics does not know panics here and not in a fill.
func TestReasonsAreCounted(t *testing.T) {
	m := metrics.New()
	for why := range failures {
		m.Fills.Failed(why.String())
	}
	for why := range reasons {
		m.Fills.Uncached(why.String())
	}
	families, err := metrics.Families()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for name, names := range map[string][]string{
			"hubcap_fills_failed_total": failureNames[:], "hubcap_uncached_total": reasonNames[:],
		} {
			if f.Name == name && len(f.Labels[0].Values) != len(names) {
				t.Errorf("%s has %q, and cache %q", name, f.Labels[0].Values, names)
			}
		}
	}
}
