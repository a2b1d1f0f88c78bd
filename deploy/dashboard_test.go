package deploy

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/grafana/grafana-foundation-sdk/go/heatmap"
	"github.com/grafana/grafana-foundation-sdk/go/prometheus"
	"github.com/grafana/grafana-foundation-sdk/go/stat"
	"github.com/grafana/grafana-foundation-sdk/go/table"
	"github.com/grafana/grafana-foundation-sdk/go/timeseries"
	"github.com/grafana/grafana-foundation-sdk/go/units"
)

// What the dashboard may use: Grafana draws nothing for a panel type that it does
// not know, and shows bare numbers for a unit that it does not know.
var (
	panelTypes = []string{"stat", "table", "timeseries", "heatmap"}
	panelUnits = []string{
		units.NoUnit, units.Short, units.PercentUnit, units.BytesIEC, units.BytesPerSecondIEC, units.Seconds, units.RequestsPerSecond, units.OpsPerSecond,
	}
)

// readDashboard decodes the dashboard by Grafana's own schema, in which no
// field may be unknown.
//
//nolint:staticcheck // the newer schema cannot be read by Grafana before 12, nor provisioned from a file
func readDashboard(t *testing.T) dashboard.Dashboard {
	t.Helper()
	runtime := cog.NewRuntime()
	runtime.RegisterPanelcfgVariant(heatmap.VariantConfig())
	runtime.RegisterPanelcfgVariant(stat.VariantConfig())
	runtime.RegisterPanelcfgVariant(table.VariantConfig())
	runtime.RegisterPanelcfgVariant(timeseries.VariantConfig())
	runtime.RegisterDataqueryVariant(prometheus.VariantConfig())
	text := []byte(read(t, "grafana/hubcap.json"))
	// The strict decoder returns an empty error for a good file, and no panels.
	var strict, d dashboard.Dashboard
	if err := strict.UnmarshalJSONStrict(text); err != nil && err.Error() != "" {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	return d
}

// TestDashboard: Grafana knows each field, panel type and unit; each panel says
// what it shows; no two of them overlap.
func TestDashboard(t *testing.T) {
	d := readDashboard(t)
	var placed []dashboard.GridPos
	ids := make(map[uint32]bool)
	for _, p := range d.Panels {
		var at dashboard.GridPos
		var id uint32
		if p.RowPanel != nil {
			at, id = *p.RowPanel.GridPos, p.RowPanel.Id
			if len(p.RowPanel.Panels) > 0 {
				t.Errorf("row %q hides panels", *p.RowPanel.Title)
			}
		} else {
			at, id = *p.Panel.GridPos, *p.Panel.Id
			checkPanel(t, p.Panel)
		}
		if ids[id] {
			t.Errorf("two panels have the id %d", id)
		}
		ids[id] = true
		for _, other := range placed {
			if at.X < other.X+other.W && other.X < at.X+at.W && at.Y < other.Y+other.H && other.Y < at.Y+at.H {
				t.Errorf("panel %d lies over another one: %+v, %+v", id, at, other)
			}
		}
		if at.W == 0 || at.H == 0 || at.X+at.W > 24 {
			t.Errorf("panel %d lies beside the grid: %+v", id, at)
		}
		placed = append(placed, at)
	}
	if len(placed) < 30 {
		t.Errorf("%d panels were found", len(placed))
	}
}

func checkPanel(t *testing.T, p *dashboard.Panel) {
	t.Helper()
	title := *p.Title
	if p.Description == nil || !strings.HasSuffix(*p.Description, ".") {
		t.Errorf("%s: no sentence describes it", title)
	}
	if !slices.Contains(panelTypes, p.Type) {
		t.Errorf("%s: the type %q is not on the list", title, p.Type)
	}
	used := []any{*p.FieldConfig.Defaults.Unit}
	for _, o := range p.FieldConfig.Overrides {
		for _, property := range o.Properties {
			if property.Id == "unit" {
				used = append(used, property.Value)
			}
		}
	}
	for _, unit := range used {
		if name, ok := unit.(string); !ok || !slices.Contains(panelUnits, name) {
			t.Errorf("%s: the unit %v is not on the list", title, unit)
		}
	}
	refs := make(map[string]bool)
	for _, target := range p.Targets {
		query, ok := target.(*prometheus.Dataquery)
		if !ok || query.Datasource == nil || *query.Datasource.Type != "prometheus" || *query.Datasource.Uid != "${datasource}" {
			t.Errorf("%s: a query of another kind or data source: %T", title, target)
			continue
		}
		if refs[*query.RefId] || !strings.Contains(query.Expr, `instance=~"$instance"`) {
			t.Errorf("%s: query %s is there twice, or is not for the boxes that were chosen: %s", title, *query.RefId, query.Expr)
		}
		refs[*query.RefId] = true
	}
	if len(refs) == 0 {
		t.Errorf("%s: no queries", title)
	}
}

// TestMetricsOfTheDashboardExist: a panel on a metric that nobody exports is
// empty for ever.
func TestMetricsOfTheDashboardExist(t *testing.T) {
	known := series(t)
	for _, name := range metricName.FindAllString(read(t, "grafana/hubcap.json"), -1) {
		if !slices.Contains(known, name) {
			t.Errorf("there is no metric %s", name)
		}
		if strings.HasPrefix(name, "instance:") {
			t.Errorf("the dashboard needs the rules for %s", name)
		}
	}
}
