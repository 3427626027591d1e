# The same as archive.sh, in the tasks of a Slurm job.
srun bash -c 'RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS \
  LOCAL_WORLD_SIZE=$SLURM_NTASKS_PER_NODE \
  python run_model.py --video_path archive --model doors.onnx --save_jsonl results.jsonl'
