package deploy

import (
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"hubcap/e2e/testkit"
)

// TestComposeMonitoring: what watches hubcap starts only with its profile, listens
// on loopback, and finds its files.
func TestComposeMonitoring(t *testing.T) {
	lines := statements(t, "compose.yaml")
	named := []string{"  data:"}
	for service, files := range map[string][]string{
		"prometheus":   {"./prometheus:/etc/prometheus:ro"},
		"alertmanager": {"./alertmanager:/etc/alertmanager:ro"},
		"grafana":      {"./grafana/provisioning:/etc/grafana/provisioning:ro", "./grafana/hubcap.json:/var/lib/grafana/dashboards/hubcap.json:ro"},
	} {
		named = append(named, "  "+service+":")
		got := block(lines, "services:", "  "+service+":")
		for _, want := range []string{"    profiles: [monitoring]", "    cap_drop: [ALL]", `    security_opt: ["no-new-privileges:true"]`} {
			if !slices.Contains(got, want) {
				t.Errorf("%s lacks %q", service, want)
			}
		}
		for _, port := range block(got, "    ports:") {
			if !strings.HasPrefix(port, `      - "127.0.0.1:`) {
				t.Errorf("%s listens at %q", service, port)
			}
		}
		for _, file := range files {
			if !slices.Contains(block(got, "    volumes:"), "      - "+file) {
				t.Errorf("%s does not have %s", service, file)
			}
			if _, err := os.Stat(strings.SplitN(file, ":", 2)[0]); err != nil {
				t.Errorf("Docker would make a directory in its place: %v", err)
			}
		}
		if !slices.ContainsFunc(got, func(line string) bool {
			return regexp.MustCompile(`^    image: \S+:v?\d+\.\d+\.\d+$`).MatchString(line)
		}) {
			t.Errorf("%s has no version", service)
		}
	}
	if found := block(lines, "volumes:"); !slices.Equal(slices.Sorted(slices.Values(found)), slices.Sorted(slices.Values(named))) {
		t.Errorf("the volumes are %q, want %q", found, named)
	}
}

// TestMonitoringFiles has Prometheus' and Alertmanager's own checks read their
// files, and looks for the names that one file has of another.
func TestMonitoringFiles(t *testing.T) {
	for file, names := range map[string][]string{
		"prometheus/prometheus.yml":                        {`["hubcap:5001"]`, `["alertmanager:9093"]`, "[rules.yml]"},
		"grafana/provisioning/datasources/prometheus.yaml": {"http://prometheus:9090"},
		"grafana/provisioning/dashboards/hubcap.yaml":      {"path: /var/lib/grafana/dashboards"},
	} {
		for _, name := range names {
			if !strings.Contains(read(t, file), name) {
				t.Errorf("%s does not name %s", file, name)
			}
		}
	}
	testkit.NeedPrograms(t, "promtool", "amtool")
	for _, check := range [][]string{
		{"promtool", "check", "config", "prometheus/prometheus.yml"},
		{"amtool", "check-config", "alertmanager/alertmanager.yml"},
	} {
		if out, err := exec.Command(check[0], check[1:]...).CombinedOutput(); err != nil {
			t.Errorf("%q: %v\n%s", check, err, out)
		}
	}
	for severity, want := range map[string]string{"critical": "critical", "warning": "warning"} {
		out, err := exec.Command("amtool", "config", "routes", "test", "--config.file=alertmanager/alertmanager.yml", "alertname=HubcapDown", "severity="+severity).Output()
		if got := strings.TrimSpace(string(out)); err != nil || got != want {
			t.Errorf("%s alerts go to %q, %v", severity, got, err)
		}
	}
}
