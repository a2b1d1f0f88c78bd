// Package monitoring has a real Prometheus scrape a box under scripted traffic, and a real Alertmanager route its alerts.
// What is missing skips a test by name, and so does -short.
package monitoring

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"hubcap/e2e/testkit"
)

func TestMain(m *testing.M) { os.Exit(testkit.Main{M: m}.Run()) }

// soon is how long a test waits for what should be there within seconds.
const soon = 90 * time.Second

const deploy = "../../deploy/"

// TestMonitoring: every query of the dashboard, the rules and the documents is answered with data, and an alert reaches
// the receiver of its severity with the place in the runbook.
func TestMonitoring(t *testing.T) {
	if testing.Short() {
		t.Skip("Prometheus takes its time: not with -short")
	}
	testkit.NeedPrograms(t, "prometheus", "prometheus-alertmanager", "amtool")
	s := startSite(t)
	s.traffic()

	missing := queries(t)
	t.Logf("%d queries", len(missing))
	for deadline := time.Now().Add(soon); len(missing) > 0 && time.Now().Before(deadline); time.Sleep(time.Second) {
		maps.DeleteFunc(missing, func(expr, _ string) bool { return s.answered(expr) })
	}
	for expr, where := range missing {
		t.Errorf("%s: no data for %s", where, expr)
	}

	pager, mail := s.receives("critical", "HubcapPullsExhausted"), s.receives("warning", "HubcapUpstreamFails")
	for severity, a := range map[string]notice{"critical": pager, "warning": mail} {
		if a.Labels["severity"] != severity || !strings.HasPrefix(a.Annotations["runbook_url"], "deploy/docs/runbook.md#hubcap") || a.Annotations["summary"] == "" {
			t.Errorf("the receiver of %s got %+v", severity, a)
		}
	}
}

var (
	comparison = regexp.MustCompile(`\s(==|!=|<=|>=|<|>) `)
	variables  = strings.NewReplacer("$__rate_interval", "30s", "$__range", "5m", "$instance", ".*")
	tableRow   = regexp.MustCompile("(?m)^\\| [^|`]+ \\| `([^`]+)` \\|$")
)

// queries returns what is asked of Prometheus, and by what. A comparison is to be answered whatever its result, and a week
// has not passed.
func queries(t *testing.T) map[string]string {
	t.Helper()
	all := make(map[string]string)
	add := func(where, expr string) {
		expr = strings.ReplaceAll(variables.Replace(strings.TrimSpace(expr)), " offset 1w", "")
		all[comparison.ReplaceAllString(expr, " $1 bool ")] = where
	}
	var board struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(read(t, "grafana/hubcap.json"), &board); err != nil {
		t.Fatal(err)
	}
	for _, p := range board.Panels {
		for _, target := range p.Targets {
			add("panel "+p.Title, target.Expr)
		}
	}
	var file struct {
		Groups []struct {
			Rules []struct{ Record, Alert, Expr string }
		}
	}
	if err := yaml.Unmarshal(read(t, "prometheus/rules.yml"), &file); err != nil {
		t.Fatal(err)
	}
	for _, group := range file.Groups {
		for _, rule := range group.Rules {
			add("rule "+rule.Alert+rule.Record, rule.Expr)
			if rule.Record != "" {
				add("record", rule.Record)
			}
		}
	}
	for _, row := range tableRow.FindAllSubmatch(read(t, "docs/metrics.md"), -1) {
		if expr := strings.ReplaceAll(string(row[1]), `\|`, "|"); strings.Contains(expr, "(") || strings.Contains(expr, " ") {
			add("metrics.md", expr)
		}
	}
	if len(all) < 80 {
		t.Fatalf("only %d queries were found", len(all))
	}
	return all
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(deploy + path)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// hasty are the rules without the times for which an alert must hold.
func hasty(t *testing.T) []byte {
	t.Helper()
	return regexp.MustCompile(`(?m)^( +)for: .*$`).ReplaceAll(read(t, "prometheus/rules.yml"), []byte("${1}for: 1s"))
}

// write writes a file of a test's own directory.
func write(t *testing.T, name string, text []byte) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// prometheusConfig scrapes a box twice a second.
func prometheusConfig(rules, box, alertmanager string) []byte {
	return fmt.Appendf(nil, `global: {scrape_interval: 500ms, evaluation_interval: 500ms}
rule_files: [%s]
scrape_configs:
- {job_name: hubcap, static_configs: [{targets: [%s]}]}
alerting: {alertmanagers: [{static_configs: [{targets: [%s]}]}]}
`, rules, box, alertmanager)
}

// alertmanagerConfig is the one that hubcap comes with, without waiting, and with two paths of one receiver to send to.
func alertmanagerConfig(t *testing.T, receiver string) []byte {
	t.Helper()
	text := regexp.MustCompile(`group_wait: .*`).ReplaceAll(read(t, "alertmanager/alertmanager.yml"), []byte("group_wait: 0s"))
	return regexp.MustCompile(`(?m)^  - name: (critical|warning)$`).ReplaceAll(text, []byte(`$0
    webhook_configs: [{url: "`+receiver+`/$1"}]`))
}

// notice is an alert as Alertmanager tells it.
type notice struct{ Labels, Annotations map[string]string }

// receives waits for an alert at the receiver of a severity, which gets none of another severity.
func (s *site) receives(severity, alert string) notice {
	s.t.Helper()
	for deadline := time.Now().Add(soon); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		all := s.notices(severity)
		if i := slices.IndexFunc(all, func(n notice) bool { return n.Labels["severity"] != severity }); i >= 0 {
			s.t.Fatalf("the receiver of %s got %+v", severity, all[i])
		}
		if i := slices.IndexFunc(all, func(n notice) bool { return n.Labels["alertname"] == alert }); i >= 0 {
			return all[i]
		}
	}
	s.t.Fatalf("the receiver of %s never got %s", severity, alert)
	return notice{}
}
