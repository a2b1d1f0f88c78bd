package deploy

import (
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"hubcap/proxy/config"
)

// TestChartKnowsTheVariables: the variables that the Helm chart sets, and those in
// the values that it is tested with, are hubcap's.
func TestChartKnowsTheVariables(t *testing.T) {
	files, err := filepath.Glob("helm/testdata/*.yaml")
	if err != nil || len(files) != 5 {
		t.Fatalf("%q, %v", files, err)
	}
	for _, file := range append(files, "helm/hubcap/templates/statefulset.yaml", "helm/hubcap/values.yaml") {
		for _, name := range regexp.MustCompile(`HUBCAP_[A-Z0-9_]*[A-Z0-9]`).FindAllString(strings.Join(statements(t, file), "\n"), -1) {
			general := regexp.MustCompile(`_[0-9]+_`).ReplaceAllString(name, "_<n>_")
			if !slices.ContainsFunc(config.Variables(), func(v config.Variable) bool { return v.Name == general }) {
				t.Errorf("%s: %s is no variable of hubcap", file, name)
			}
		}
	}
}
