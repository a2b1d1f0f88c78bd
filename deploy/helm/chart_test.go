// Package helm holds the chart against the types of Kubernetes and of the
// Prometheus operator. It is a module of its own because these types take more to
// build than all of hubcap, and nothing else needs them.
package helm

import (
	"bytes"
	"go/build"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	policy "k8s.io/api/policy/v1"
	"sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// valueSets are what the chart is rendered with, and the kinds that come of it
// besides a StatefulSet and two Services.
var valueSets = map[string][]string{
	"default":   nil,
	"office":    nil,
	"nodes":     nil,
	"monitored": {"PrometheusRule", "ServiceMonitor"},
	"confined":  {"NetworkPolicy", "PodDisruptionBudget", "ServiceAccount"},
}

// kubernetes is the version that the chart is rendered for.
const kubernetes = "1.34.0"

// helm runs Helm. Without it the test is skipped, or fails where everything is
// required, as in .ci/run.
func helm(t *testing.T, args ...string) (string, error) {
	t.Helper()
	clients := os.Getenv("TEST_E2E_CLIENTS")
	if clients == "" {
		clients = filepath.Join(build.Default.GOPATH, "bin", "hubcap-e2e")
	}
	program := filepath.Join(clients, "helm")
	if _, err := os.Stat(program); err != nil {
		if os.Getenv("TEST_E2E") == "require" {
			t.Fatal("helm is not installed, and TEST_E2E=require")
		}
		t.Skip("helm is not installed")
	}
	cmd := exec.Command(program, args...)
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir())
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func TestLint(t *testing.T) {
	for set := range valueSets {
		if out, err := helm(t, "lint", "--strict", "--values", "testdata/"+set+".yaml", "hubcap"); err != nil {
			t.Errorf("%s: %v\n%s", set, err, out)
		}
	}
}

// types are the types of what the chart and its README may hold.
var types = map[string]func() any{
	"apps/v1 StatefulSet":                     func() any { return new(apps.StatefulSet) },
	"apps/v1 DaemonSet":                       func() any { return new(apps.DaemonSet) },
	"v1 ConfigMap":                            func() any { return new(core.ConfigMap) },
	"v1 Service":                              func() any { return new(core.Service) },
	"v1 ServiceAccount":                       func() any { return new(core.ServiceAccount) },
	"networking.k8s.io/v1 NetworkPolicy":      func() any { return new(networking.NetworkPolicy) },
	"policy/v1 PodDisruptionBudget":           func() any { return new(policy.PodDisruptionBudget) },
	"monitoring.coreos.com/v1 ServiceMonitor": func() any { return new(monitoring.ServiceMonitor) },
	"monitoring.coreos.com/v1 PrometheusRule": func() any { return new(monitoring.PrometheusRule) },
}

// decode reads objects. Fields that the types do not have, in other letter case
// too, are errors; a YAML decoder alone accepts those.
func decode(t *testing.T, text string) (objects map[string][]any) {
	t.Helper()
	objects = map[string][]any{}
	for document := range strings.SplitSeq(text, "\n---\n") {
		content, err := yaml.YAMLToJSONStrict([]byte(document))
		if err != nil {
			t.Fatalf("%v\n%s", err, document)
		}
		if bytes.Equal(content, []byte("null")) {
			continue
		}
		var head struct {
			APIVersion string `json:"apiVersion"`
			Kind       string `json:"kind"`
		}
		if err := json.UnmarshalCaseSensitivePreserveInts(content, &head); err != nil {
			t.Fatal(err)
		}
		newObject, known := types[head.APIVersion+" "+head.Kind]
		if !known {
			t.Fatalf("%s %s is none of the chart's types", head.APIVersion, head.Kind)
		}
		object := newObject()
		wrong, err := json.UnmarshalStrict(content, object)
		if err != nil || len(wrong) > 0 {
			t.Errorf("%s: %v %v", head.Kind, err, wrong)
		}
		objects[head.Kind] = append(objects[head.Kind], object)
	}
	return objects
}

func TestTemplates(t *testing.T) {
	for set, further := range valueSets {
		t.Run(set, func(t *testing.T) {
			out, err := helm(t, "template", "box", "hubcap", "--kube-version", kubernetes, "--namespace", "mirrors", "--values", "testdata/"+set+".yaml")
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			objects := decode(t, out)
			want := slices.Sorted(slices.Values(append([]string{"Service", "StatefulSet"}, further...)))
			if got := slices.Sorted(maps.Keys(objects)); !slices.Equal(got, want) || len(objects["Service"]) != 2 {
				t.Errorf("kinds %q, want %q", got, want)
			}
			confined(t, objects["StatefulSet"][0].(*apps.StatefulSet).Spec.Template.Spec)
			selected(t, objects)
		})
	}
}

// confined holds a pod against the Pod Security Standard "restricted" and what
// hubcap needs besides.
func confined(t *testing.T, pod core.PodSpec) {
	t.Helper()
	if pod.EnableServiceLinks == nil || *pod.EnableServiceLinks {
		t.Error("Kubernetes sets variables such as HUBCAP_PORT")
	}
	if pod.AutomountServiceAccountToken == nil || *pod.AutomountServiceAccountToken {
		t.Error("the pod gets a token for the cluster's API")
	}
	yes := func(b *bool) bool { return b != nil && *b }
	no := func(b *bool) bool { return b != nil && !*b }
	s, c := pod.SecurityContext, pod.Containers[0].SecurityContext
	if !yes(s.RunAsNonRoot) || *s.RunAsUser == 0 || s.FSGroup == nil || s.SeccompProfile.Type != core.SeccompProfileTypeRuntimeDefault ||
		!no(c.AllowPrivilegeEscalation) || !yes(c.ReadOnlyRootFilesystem) || !slices.Equal(c.Capabilities.Drop, []core.Capability{"ALL"}) || c.Privileged != nil ||
		pod.HostNetwork || pod.HostPID || pod.HostIPC {
		t.Errorf("the pod is not restricted: %+v %+v", s, c)
	}
	var mounts []string
	for _, m := range pod.Containers[0].VolumeMounts {
		mounts = append(mounts, m.MountPath)
	}
	if !slices.Contains(mounts, "/data") {
		t.Errorf("there is no volume for the cache: %q", mounts)
	}
}

// selected checks that every selector finds the pods, and every port is one.
func selected(t *testing.T, objects map[string][]any) {
	t.Helper()
	set := objects["StatefulSet"][0].(*apps.StatefulSet)
	labels := set.Spec.Template.Labels
	selectors := []map[string]string{set.Spec.Selector.MatchLabels}
	for _, object := range objects["Service"] {
		service := object.(*core.Service)
		selectors = append(selectors, service.Spec.Selector)
		for _, port := range service.Spec.Ports {
			if !slices.ContainsFunc(set.Spec.Template.Spec.Containers[0].Ports, func(p core.ContainerPort) bool { return p.Name == port.TargetPort.StrVal }) {
				t.Errorf("the service %s leads to port %s, which the pod does not have", service.Name, port.TargetPort.StrVal)
			}
		}
	}
	for _, object := range objects["NetworkPolicy"] {
		selectors = append(selectors, object.(*networking.NetworkPolicy).Spec.PodSelector.MatchLabels)
	}
	for _, object := range objects["PodDisruptionBudget"] {
		selectors = append(selectors, object.(*policy.PodDisruptionBudget).Spec.Selector.MatchLabels)
	}
	for _, selector := range selectors {
		for name, value := range selector {
			if labels[name] != value {
				t.Errorf("%s=%s does not select the pods, whose labels are %v", name, value, labels)
			}
		}
	}
}

// TestMonitoring: the operator scrapes the admin port of each pod once, under the
// job that the rules look for, and gets the rules as they are.
func TestMonitoring(t *testing.T) {
	out, err := helm(t, "template", "box", "hubcap", "--kube-version", kubernetes, "--values", "testdata/monitored.yaml")
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	objects := decode(t, out)
	monitor := objects["ServiceMonitor"][0].(*monitoring.ServiceMonitor)
	var scraped []string
	for _, object := range objects["Service"] {
		service := object.(*core.Service)
		matches := true
		for name, value := range monitor.Spec.Selector.MatchLabels {
			matches = matches && service.Labels[name] == value
		}
		if matches && slices.ContainsFunc(service.Spec.Ports, func(p core.ServicePort) bool { return p.Name == monitor.Spec.Endpoints[0].Port }) {
			scraped = append(scraped, service.Name)
		}
	}
	if !slices.Equal(scraped, []string{"box-hubcap-pods"}) {
		t.Errorf("scraped: %q", scraped)
	}
	content, err := os.ReadFile("hubcap/rules.yml")
	if err != nil {
		t.Fatal(err)
	}
	var want monitoring.PrometheusRuleSpec
	if err := yaml.UnmarshalStrict(content, &want); err != nil {
		t.Fatal(err)
	}
	if got := objects["PrometheusRule"][0].(*monitoring.PrometheusRule).Spec; len(want.Groups) == 0 || !reflect.DeepEqual(got, want) {
		t.Errorf("the rules in the cluster differ from rules.yml")
	}
}

// TestRulesAreThoseOfPrometheus: Helm reads no file outside of the chart.
func TestRulesAreThoseOfPrometheus(t *testing.T) {
	want, err := os.ReadFile("../prometheus/rules.yml")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile("hubcap/rules.yml"); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the chart's rules differ (%v): cp deploy/prometheus/rules.yml deploy/helm/hubcap/rules.yml", err)
	}
}

// TestDaemonSetOfTheReadme reads the objects that the README shows.
func TestDaemonSetOfTheReadme(t *testing.T) {
	readme, err := os.ReadFile("hubcap/README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(readme), "\n```yaml\n")
	text, _, closed := strings.Cut(text, "\n```\n")
	objects := decode(t, text)
	if !closed || len(objects["ConfigMap"]) != 1 || len(objects["DaemonSet"]) != 1 {
		t.Fatalf("the README has %v", slices.Sorted(maps.Keys(objects)))
	}
	file := objects["ConfigMap"][0].(*core.ConfigMap).Data["hosts.toml"]
	if !strings.HasPrefix(file, "[host.\"http://") || !strings.Contains(file, `capabilities = ["pull", "resolve"]`) {
		t.Errorf("hosts.toml is %q", file)
	}
}

// TestSchema: what the chart does not know is refused by name.
func TestSchema(t *testing.T) {
	for setting, named := range map[string]string{
		"volume.size=1Gi":                   "volume",
		"persistence.size=big":              "size",
		"service.type=Ingress":              "type",
		"hostPort=70000":                    "hostPort",
		"config.TAG_TTL=5m":                 "TAG_TTL",
		"config.HUBCAP_LISTEN=:80":          "HUBCAP_LISTEN",
		"image.digest=latest":               "digest",
		"networkPolicy.egressPorts={https}": "egressPorts",
		"resources.request.memory=1Gi":      "request",
		"serviceMonitor.interval=often":     "interval",
		"replicas=-1":                       "replicas",
	} {
		out, err := helm(t, "template", "box", "hubcap", "--kube-version", kubernetes, "--set", setting)
		if err == nil || !strings.Contains(out, named) {
			t.Errorf("%s: %v\n%s", setting, err, out)
		}
	}
}

// TestYAMLBesideTheChart reads the other files of deploy that are YAML: no key is
// there twice.
func TestYAMLBesideTheChart(t *testing.T) {
	for _, pattern := range []string{"../compose.yaml", "../prometheus/prometheus.yml", "../alertmanager/*.yml", "../grafana/provisioning/*/*.yaml", "../package/nfpm.yaml", "../../.github/workflows/*.yml"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Errorf("%s: %q, %v", pattern, files, err)
		}
		for _, file := range files {
			content, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := yaml.YAMLToJSONStrict(content); err != nil {
				t.Errorf("%s: %v", file, err)
			}
		}
	}
}

// TestSite: several pods know each other by the names that the headless service gives
// them, and the network policy lets them reach each other. One pod, or pods whose
// configuration says so, are caches of their own.
func TestSite(t *testing.T) {
	for set, want := range map[string]string{
		"confined": "http://mirror-0.mirror-pods.mirrors.svc:5000,http://mirror-1.mirror-pods.mirrors.svc:5000", "default": "",
	} {
		out, err := helm(t, "template", "box", "hubcap", "--kube-version", kubernetes, "--namespace", "mirrors", "--values", "testdata/"+set+".yaml")
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		objects := decode(t, out)
		got := ""
		for _, e := range objects["StatefulSet"][0].(*apps.StatefulSet).Spec.Template.Spec.Containers[0].Env {
			if e.Name == "HUBCAP_SITE" {
				got = e.Value
			}
		}
		if got != want {
			t.Errorf("%s: HUBCAP_SITE=%q, want %q", set, got, want)
		}
		for _, object := range objects["NetworkPolicy"] {
			rules := object.(*networking.NetworkPolicy).Spec
			own := func(p networking.NetworkPolicyPeer) bool {
				return p.PodSelector != nil && maps.Equal(p.PodSelector.MatchLabels, rules.PodSelector.MatchLabels)
			}
			if !slices.ContainsFunc(rules.Ingress[0].From, own) || !slices.ContainsFunc(rules.Egress[1].To, own) {
				t.Errorf("%s: the pods do not reach each other: %+v", set, rules)
			}
		}
	}
	out, err := helm(t, "template", "box", "hubcap", "--kube-version", kubernetes, "--set", "replicas=3,config.HUBCAP_SITE=")
	if err != nil || strings.Contains(out, "hubcap-pods.default.svc") {
		t.Errorf("%v\n%s", err, out)
	}
}
