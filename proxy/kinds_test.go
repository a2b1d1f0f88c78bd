package proxy

import (
	"slices"
	"testing"

	"hubcap/metrics"
)

// TestLabels: each kind and each result has a name of its own.
func TestLabels(t *testing.T) {
	for _, names := range [][]string{kindNames[:], resultNames[:]} {
		sorted := slices.Sorted(slices.Values(names))
		if sorted[0] == "" || len(slices.Compact(sorted)) != len(names) {
			t.Errorf("%q has a name twice, or none", names)
		}
	}
	if len(kindNames) != int(kindReferrers)+1 || len(resultNames) != int(resultFailed)+1 {
		t.Error("a kind or a result has no name")
	}
}

// TestLabelsAreDocumented: each kind and each result is one that the metrics
// have a series for from the start.
func TestLabelsAreDocumented(t *testing.T) {
	families, err := metrics.Families()
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(families, func(f metrics.Family) bool { return f.Name == "hubcap_requests_total" })
	for _, label := range families[i].Labels {
		want := kindNames[:]
		if label.Name == "result" {
			want = resultNames[:]
		}
		if !slices.Equal(label.Values, slices.Sorted(slices.Values(want))) {
			t.Errorf("%s: %q, want %q", label.Name, label.Values, want)
		}
	}
}
