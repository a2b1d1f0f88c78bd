package deploy

import (
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"hubcap/e2e/testkit"
	"hubcap/metrics"
)

// rule is a rule of rules.yml.
type rule struct {
	Record, Alert, Expr string
	Labels, Annotations map[string]string
}

func rules(t *testing.T) (all []rule) {
	t.Helper()
	var file struct{ Groups []struct{ Rules []rule } }
	if err := yaml.Unmarshal([]byte(read(t, "prometheus/rules.yml")), &file); err != nil {
		t.Fatal(err)
	}
	for _, group := range file.Groups {
		all = append(all, group.Rules...)
	}
	return all
}

// TestRules has promtool check the rules, and without -short run their unit
// tests: each alert is seen firing and silent.
func TestRules(t *testing.T) {
	testkit.NeedPrograms(t, "promtool")
	unit, err := filepath.Glob("prometheus/rules_*test.yml")
	if err != nil || len(unit) == 0 {
		t.Fatalf("no unit tests of the rules: %v", err)
	}
	commands := [][]string{{"check", "rules", "--lint=all", "--lint-fatal", "prometheus/rules.yml"}}
	if !testing.Short() { // they take seconds
		commands = append(commands, append([]string{"test", "rules"}, unit...))
	}
	for _, args := range commands {
		if out, err := exec.Command("promtool", args...).CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	var tests strings.Builder
	for _, name := range unit {
		tests.WriteString(read(t, name))
	}
	for _, r := range rules(t) {
		firing := `ALERTS{alertname="` + r.Alert + `",alertstate="firing",severity="` + r.Labels["severity"] + `"`
		if r.Alert != "" && !strings.Contains(tests.String(), firing) {
			t.Errorf("no unit test sees %s firing with severity %s", r.Alert, r.Labels["severity"])
		}
	}
}

// TestAlertsAreExplained: each alert has its texts, a severity, and a heading in
// the runbook, which says all that a reader who was woken up needs.
func TestAlertsAreExplained(t *testing.T) {
	sections := make(map[string]string)
	for _, section := range strings.Split(read(t, "docs/runbook.md"), "\n### ")[1:] {
		title, text, _ := strings.Cut(section, "\n")
		sections[strings.ToLower(title)] = text
	}
	seen := make(map[string]bool)
	for _, r := range rules(t) {
		if r.Alert == "" {
			continue
		}
		if r.Annotations["summary"] == "" || r.Annotations["description"] == "" || !slices.Contains([]string{"critical", "warning"}, r.Labels["severity"]) {
			t.Errorf("%s: summary, description or severity is missing", r.Alert)
		}
		heading, ok := strings.CutPrefix(r.Annotations["runbook_url"], "deploy/docs/runbook.md#")
		if !ok || sections[heading] == "" {
			t.Errorf("%s: runbook_url %q leads to no heading", r.Alert, r.Annotations["runbook_url"])
		}
		seen[heading] = true
		for _, part := range []string{"**Meaning:**", "**Who suffers:**", "**Look", "**No problem:**"} {
			if !strings.Contains(sections[heading], part) {
				t.Errorf("the runbook lacks %s of %s", part, r.Alert)
			}
		}
	}
	for heading := range sections {
		if strings.HasPrefix(heading, "hubcap") && !seen[heading] {
			t.Errorf("the runbook explains %s, which is no alert", heading)
		}
	}
}

// series are the names of all series that a box or a rule makes.
func series(t *testing.T) (names []string) {
	t.Helper()
	families, err := metrics.Families()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		names = append(names, f.Series()...)
	}
	for _, r := range rules(t) {
		names = append(names, r.Record)
	}
	return names
}

var metricName = regexp.MustCompile(`\b(?:instance:)?hubcap_[a-z0-9_:]+`)

// TestMetricsOfRulesExist: a rule on a metric that nobody exports never fires.
func TestMetricsOfRulesExist(t *testing.T) {
	known := series(t)
	for _, r := range rules(t) {
		for _, name := range metricName.FindAllString(r.Expr, -1) {
			if !slices.Contains(known, name) {
				t.Errorf("%s%s: there is no metric %s", r.Alert, r.Record, name)
			}
		}
	}
	for _, path := range []string{"docs/runbook.md", "docs/metrics.md"} {
		for _, name := range metricName.FindAllString(read(t, path), -1) {
			if strings.HasPrefix(name, "instance:") && !slices.Contains(known, name) {
				t.Errorf("%s: there is no record %s", path, name)
			}
		}
	}
}
