# Every target sets up .venv on the first run, and again after a requirements file changes.
# Requires make, Python 3.11 or newer with its venv module, and network access for the setup.

PYTHON ?= python3
VENV_PYTHON := .venv/bin/python
OUT ?= runs/weights

.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help demo serve test lint weights clean

help:   ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /make \1	/p' Makefile

demo: .venv/requirements.stamp build/astronaut.png   ## lip-sync a portrait: results/demo.mp4
	$(VENV_PYTHON) inference.py --face build/astronaut.png --audio assets/speech.wav --detector center --outfile results/demo.mp4
	@echo "The video is $$PWD/results/demo.mp4"

serve: .venv/requirements-web.stamp   ## serve the web page and the API on http://127.0.0.1:7860
	$(VENV_PYTHON) -m inference.web

test: .venv/requirements-dev.stamp   ## run the tests
	OMP_NUM_THREADS=1 $(VENV_PYTHON) -m pytest -n 2 -q

lint: .venv/requirements-dev.stamp   ## check style and types
	$(VENV_PYTHON) -m ruff check .
	$(VENV_PYTHON) -m mypy

ifneq ($(filter weights,$(MAKECMDGOALS)),)
$(if $(DATA),,$(error make weights needs DATA=FOLDER, a folder of videos))
endif
weights: .venv/requirements-train.stamp   ## train every network: make weights DATA=videos [OUT=…] [BUILD=…] [MESH_PYTHON=…] [STEPS=3]
	$(VENV_PYTHON) -m wav2lip.all_weights "$(DATA)" --out "$(OUT)" \
	  --build="$(BUILD)" $(if $(MESH_PYTHON),--mesh-python "$(MESH_PYTHON)") $(if $(STEPS),--steps $(STEPS))

clean:   ## remove .venv, build and caches; keep results and runs
	rm -rf .venv build .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

# NASA's portrait of Eileen Collins, in the public domain, from scikit-image.
build/astronaut.png: | .venv/requirements.stamp
	@mkdir -p build results
	$(VENV_PYTHON) -c 'from skimage import data, io; io.imsave("$@", data.astronaut())'

# A stamp marks that .venv satisfies a requirements file. All stamps are removed before pip starts, so that an interrupted
# setup leaves none; every requirements file includes requirements.txt, so its stamp is always recreated.
.venv/%.stamp: %.txt
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo 'Python 3.11 or newer is required; specify it with make PYTHON=/path/to/python3.11' >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "Python's venv module is missing; on Debian or Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@echo 'Setting up .venv from $<: takes a few minutes and about 2 GB, once.'
	@rm -f .venv/*.stamp
	"$(PYTHON)" -m venv .venv
	$(VENV_PYTHON) -m pip install --disable-pip-version-check -r $<
	@$(opencv_without_display)
	@touch .venv/requirements.stamp $@
.venv/requirements-train.stamp: requirements.txt
.venv/requirements-web.stamp .venv/requirements-provenance.stamp .venv/requirements-onnx.stamp: requirements.txt
.venv/requirements-dev.stamp: requirements.txt requirements-train.txt requirements-web.txt requirements-provenance.txt requirements-onnx.txt

# face-alignment requires opencv-python, which needs libGL. If that is missing, the headless wheel of the same version
# replaces it. Both install the folder cv2, so the first must be uninstalled and the second force-reinstalled.
define opencv_without_display
set -e; \
error=$$($(VENV_PYTHON) -c 'import cv2' 2>&1) && exit 0; \
case $$error in *'cannot open shared object file'*) ;; *) printf '%s\n' "$$error" >&2; exit 1;; esac; \
version=$$($(VENV_PYTHON) -c 'from importlib.metadata import version; print(version("opencv-python"))'); \
echo "opencv-python lacks a system library ($${error##*ImportError: }): installing opencv-python-headless $$version instead."; \
$(VENV_PYTHON) -m pip uninstall --quiet --yes opencv-python; \
$(VENV_PYTHON) -m pip install --quiet --disable-pip-version-check \
  --no-deps --force-reinstall "opencv-python-headless==$$version"; \
$(VENV_PYTHON) -c 'import cv2'
endef
